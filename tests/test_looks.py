"""The chain of looks: what counts together, what keeps its place, what is told of changed grades, what is refused."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

import drgate.looks
from drgate import limits
from drgate.certificate.sign import certify
from drgate.checklist import Checklist, parse_checklist, parse_yaml
from drgate.errors import UsageError
from drgate.evaluate import evaluate
from drgate.evaluation import Favour, Look, Model, Overlap, Regraded, Subject
from drgate.files import canonical_json, digest_of
from drgate.looks import Log, Seen, is_look_at, take_look
from drgate.patients import PatientKey, generate_patient_key, load_patient_key
from drgate.predictions import (
    Predictions,
    column_bytes,
    make_predictions,
    published,
    published_names,
    write_predictions,
)
from drgate.verify import Given, verify

KEY, OTHER = PatientKey.of(b"k" * 32), PatientKey.of(b"o" * 32)


def checklist_of(looks: int = 1, *, name: str = "short", version: int = 1, floor: float = 0.9) -> Checklist:
    text = f"name: {name}\nversion: {version}\nlooks: {looks}\ncriteria: [{{id: accuracy, at_least: {floor}}}]"
    return parse_yaml(text.encode(), name)


def table(
    images: Sequence[str],
    grades: Sequence[int | None],
    predicted: Sequence[int | None] | None = None,
    *,
    patients: Sequence[str] | None = None,
    contents: Sequence[str] | None = None,
    bare: bool = False,
) -> Predictions:
    """Predictions, perfect where no other are given; a grade None is not gradable.

    contents: what the files hold, by default their names; bare: that is not known.
    """
    columns: dict[str, object] = {
        "image": images,
        "grade": grades,
        "predicted": grades if predicted is None else predicted,
    }
    columns["gradable"] = [grade is not None for grade in grades]
    if patients is not None:
        columns["patient"] = patients
    if not bare:
        contents = images if contents is None else contents
        columns["sha256"] = [hashlib.sha256(content.encode()).hexdigest() for content in contents]
    frame = pd.DataFrame(columns)
    return make_predictions(
        frame.assign(**{name: frame[name].astype("Int8") for name in ("grade", "predicted")}), "t", {}
    )


def look(
    path: Path,
    predictions: Predictions,
    model: str | None = "model",
    *,
    checklist: Checklist | None = None,
    beside: bool = False,
    key: PatientKey | None = KEY,
) -> Look:
    """A look logged in `path`; beside: counting the other chains of its folder, as the default does."""
    others = [other for other in sorted(path.parent.glob("*.jsonl")) if other != path] if beside else []
    seen = Seen.of(predictions, path.stem, key)
    return take_look(
        path, seen, model=model, predictions="sha256:rows", checklist=checklist or checklist_of(2), others=others
    )


def relinked(chain: Path, entries: list[dict[str, object]]) -> None:
    """Write these lines with every digest right."""
    previous, lines = "", []
    for entry in entries:
        linked = {**entry, "previous": entry["previous"] and previous}
        del linked["digest"]
        previous = digest_of(linked)
        lines.append(canonical_json({**linked, "digest": previous}))
    chain.write_bytes(b"".join(line + b"\n" for line in lines))


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "looks.jsonl"


AB = table(["a", "b"], [0, 4])


class TestLine:
    """A look names its line in the chain, by which a certificate is bound to it."""

    def test_is_the_digest_of_its_line(self, chain: Path):
        first, second = look(chain, AB), look(chain, AB, "other model")
        lines = [json.loads(line) for line in chain.read_bytes().splitlines()]
        assert [line["digest"] for line in lines if line["kind"] == "look"] == [first.line, second.line]
        content = {key: value for key, value in lines[-1].items() if key != "digest"}
        plain = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
        assert second.line == f"sha256:{hashlib.sha256(plain).hexdigest()}"

    def test_is_kept_with_the_look(self, chain: Path):
        """The same look again names the same line, whatever was logged since."""
        first = look(chain, AB)
        look(chain, AB, "other model")
        assert look(chain, AB).line == first.line


class TestGivenTime:
    def test_dates_a_new_look_and_no_old_one(self, chain: Path):
        seen = Seen.of(AB, "t")
        for given, model, expected in (
            ("2026-01-31T09:00:00Z", "one", "2026-01-31T09:00:00Z"),
            ("2026-03-31T09:00:00Z", "one", "2026-01-31T09:00:00Z"),
            ("2026-03-31T09:00:00Z", "two", "2026-03-31T09:00:00Z"),
        ):
            taken = take_look(chain, seen, model=model, predictions=AB.digest, checklist=checklist_of(2), time=given)
            assert taken.time == expected

    @pytest.mark.parametrize(
        "given", ["yesterday", "2026-01-31", "2026-02-30T09:00:00Z", "2026-01-31T09:00:00+02:00", ""]
    )
    def test_that_is_none_is_refused(self, chain: Path, given: str):
        with pytest.raises(UsageError, match="expected ISO 8601"):
            take_look(chain, Seen.of(AB, "t"), model="m", predictions=AB.digest, checklist=checklist_of(), time=given)
        assert not chain.exists()

    def test_in_the_future_is_refused(self, chain: Path):
        """A certificate cannot be made younger than it is."""
        with pytest.raises(UsageError, match="in the future"):
            take_look(
                chain,
                Seen.of(AB, "t"),
                model="m",
                predictions=AB.digest,
                checklist=checklist_of(),
                time="9999-01-01T00:00:00Z",
            )


class TestCounting:
    def test_the_same_model_on_the_same_images_keeps_number_and_time(
        self, chain: Path, monkeypatch: pytest.MonkeyPatch
    ):
        """Repeating an evaluation is no further look, by any checklist, and its age cannot be renewed."""
        monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
        first = look(chain, AB)
        monkeypatch.setenv("SOURCE_DATE_EPOCH", "1800000000")
        assert look(chain, AB) == first
        assert replace(first, line=None) == Look(1, 2, "2023-11-14T22:13:20Z", patient_key=KEY.id)
        assert look(chain, AB, checklist=checklist_of(9, name="another")) == first
        assert look(chain, AB, "other model").number == 2
        assert look(chain, AB) == first

    def test_the_order_of_rows_is_no_other_test_set(self, chain: Path):
        assert look(chain, AB) == look(chain, table(["b", "a"], [4, 0]))

    def test_images_without_anything_in_common_are_counted_apart(self, chain: Path):
        look(chain, AB)
        assert look(chain, table(["c", "d"], [0, 4]), "other").number == 1

    def test_one_shared_image_continues_the_count(self, chain: Path):
        """A few images added to, or taken from, a test set do not make a fresh one."""
        look(chain, AB)
        grown = look(chain, table(["b", "c", "d"], [4, 0, 1]), "other")
        assert (grown.number, grown.allowed) == (2, 2)
        assert grown.overlapping == (Overlap("looks", 1, 1, 0),)

    def test_a_copy_under_another_name_is_the_same_image(self, chain: Path):
        """Images are known by their content where the table has it."""
        look(chain, table(["a", "b"], [0, 4], contents=["x", "y"]))
        assert look(chain, table(["new-1", "new-2"], [0, 4], contents=["x", "z"]), "other").number == 2
        assert look(chain, table(["a", "b"], [0, 4], contents=["p", "q"]), "other").number == 1

    def test_one_shared_patient_continues_the_count(self, chain: Path):
        """Other photographs of the same people are no fresh test set."""
        look(chain, table(["a", "b"], [0, 4], patients=["p1", "p2"]))
        again = look(chain, table(["c", "d"], [0, 4], patients=["p2", "p3"]), "other")
        assert again.number == 2
        assert again.overlapping == (Overlap("looks", 1, 0, 1),)

    def test_all_overlapping_test_sets_are_added_up(self, chain: Path):
        """A set joined from two that were looked at once each is at its third look."""
        look(chain, AB)
        look(chain, table(["c", "d"], [0, 4]), "other")
        joined = look(chain, table(["a", "b", "c", "d"], [0, 4, 0, 4]))
        assert joined.number == 3
        assert [entry.looks for entry in joined.overlapping] == [1, 1]

    def test_the_number_declared_first_holds(self, chain: Path):
        """Raising the number of looks after the first one buys none, not even through an overlapping test set."""
        assert look(chain, AB, checklist=checklist_of(1)).allowed == 1
        assert look(chain, AB, "b", checklist=checklist_of(9, version=2)).allowed == 1
        assert look(chain, table(["b", "c"], [4, 0]), "c", checklist=checklist_of(9, version=2)).allowed == 1

    def test_chains_in_other_files_count(self, tmp_path: Path):
        """By default every test set has a file of its own, and looks at the same people in the others count."""
        one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
        first = look(one, table(["a", "b"], [0, 4], patients=["p1", "p2"]), beside=True)
        before = one.read_bytes()
        second = look(two, table(["b", "c"], [4, 0], patients=["p2", "p3"]), "other", beside=True)
        assert second.number == 2
        assert second.overlapping == (Overlap("one", 1, 1, 1),)
        assert one.read_bytes() == before
        assert look(two, table(["a", "b"], [0, 4], patients=["p1", "p2"]), beside=True) == first

    def test_the_chain_that_holds_the_look_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        """Taken once by default, the same look is not in a further file, and nobody is told that it is."""
        monkeypatch.chdir(tmp_path)
        first, usual = Log().look(AB, "t", checklist_of(1), model="m")
        again, holder = Log(Path("looks/site.jsonl")).look(AB, "t", checklist_of(1), model="m")
        assert again == first
        assert holder.resolve() == usual.resolve()
        assert not Path("looks/site.jsonl").exists()

    def test_no_look_is_wasted_on_the_same_answers(self, chain: Path):
        """Without its patients the same table would be another look, which nothing could pass and nobody wanted."""
        named = table(["a", "b"], [0, 4], patients=["p1", "p2"])
        look(chain, named, checklist=checklist_of(1))
        before = chain.read_bytes()
        with pytest.raises(UsageError, match=r"looked at before.*\(look 1\), with other values of patient\."):
            look(chain, AB, checklist=checklist_of(1))
        assert chain.read_bytes() == before
        assert look(chain, named, checklist=checklist_of(1)).number == 1

    def test_one_checklist_has_one_content(self, chain: Path):
        """A checklist that was changed without a new version is not the one that was declared."""
        look(chain, AB, checklist=checklist_of())
        before = chain.read_bytes()
        with pytest.raises(UsageError, match="short version 1 with another content"):
            look(chain, table(["z"], [0]), checklist=checklist_of(floor=0.5))
        assert chain.read_bytes() == before
        assert look(chain, AB, "other", checklist=checklist_of(floor=0.5, version=2)).number == 2


class TestChangedGrades:
    """Reference grades that change after a look are listed, with whom the changes favour."""

    before = table(list("abcd"), [0, 1, 2, 3], [0, 2, 2, 0])

    def test_are_a_new_look_and_are_listed(self, chain: Path):
        """b becomes what the first model said (an error mended), c what it did not say."""
        look(chain, self.before)
        again = look(chain, table(list("abcd"), [0, 2, 3, 3], [0, 2, 2, 0]))
        assert again.number == 2
        assert again.regraded == (Regraded("b", 1, 2), Regraded("c", 2, 3))
        assert again.regraded_count == 2
        (favour,) = again.favouring
        assert favour == Favour(look=1, time=favour.time, same_model=True, changed=2, favouring=1)

    def test_an_error_that_is_no_longer_gradable_is_mended_too(self, chain: Path):
        """Taking d, which the model got wrong, out of the count favours it; taking a, which it got right, does not."""
        look(chain, self.before)
        again = look(chain, table(list("abcd"), [None, 1, 2, None], [0, 2, 2, 0]))
        assert again.regraded[0] == Regraded("a", 0, "not gradable")
        assert [entry.favouring for entry in again.favouring] == [1]

    def test_a_mark_changes_nothing_and_a_grade_that_is_added_does(self, chain: Path):
        """Whether there is a grade counts, not what `gradable` says of a row that has one."""
        first = look(chain, self.before)
        marked = make_predictions(self.before.table.assign(gradable=[False, True, False, True]), "t", {})
        assert look(chain, marked) == first
        assert look(chain, marked).number == 1
        look(chain, table(list("abcde"), [0, 1, 2, 3, None], [0, 2, 2, 0, 1]))
        added = look(chain, table(list("abcde"), [0, 1, 2, 3, 1], [0, 2, 2, 0, 1]))
        assert added.number == 3
        assert Regraded("e", "not gradable", 1) in added.regraded

    def test_are_told_at_every_later_look(self, chain: Path):
        """Looking once more with the new grades does not make the change forgotten; each look has its own favour."""
        look(chain, self.before)
        changed = [0, 2, 2, 3]
        look(chain, table(list("abcd"), changed, [0, 1, 1, 1]), "second")
        third = look(chain, table(list("abcd"), changed), "third")
        assert third.number == 3
        assert [(entry.look, entry.favouring) for entry in third.favouring] == [(1, 1)]
        back = look(chain, self.before, "fourth")
        assert [entry.look for entry in back.favouring] == [2, 3]
        assert back.regraded == (Regraded("b", 2, 1),)

    def test_are_found_through_an_overlapping_test_set(self, chain: Path):
        look(chain, self.before)
        assert look(chain, table(["b", "z"], [4, 0]), "other").regraded == (Regraded("b", 1, 4),)

    def test_the_same_look_tells_the_same(self, chain: Path):
        """Repeating the evaluation gives the same bytes, also when further looks came in between."""
        look(chain, self.before)
        changed = table(list("abcd"), [4, 1, 2, 3], [0, 2, 2, 0])
        told = look(chain, changed)
        look(chain, self.before, "another")
        assert look(chain, changed) == told
        assert told.regraded

    def test_a_long_list_is_cut_and_counted(self, chain: Path):
        images = [f"{i:03}" for i in range(120)]
        look(chain, table(images, [0] * 120))
        again = look(chain, table(images, [1] * 120))
        assert (len(again.regraded), again.regraded_count) == (drgate.looks.SHOWN, 120)

    def test_a_look_without_changes_says_nothing_of_them(self, chain: Path):
        found = look(chain, AB)
        assert (found.overlapping, found.regraded, found.regraded_count, found.favouring) == ((), (), 0, ())


class TestEvidence:
    @pytest.mark.parametrize(
        "defect",
        [
            "the first line removed",
            "a line in the middle removed",
            "a grade changed",
            "the last grade changed",
            "lines exchanged",
            "not JSON",
            "another object",
            "cut off",
            "emptied",
        ],
    )
    def test_a_broken_chain_is_refused(self, defect: str, chain: Path):
        """Looks are evidence: a chain that was edited is not counted from, and the file stays as it is."""
        for model in "abc":
            look(chain, AB, model)
        lines = chain.read_text().splitlines()
        assert [json.loads(line)["kind"] for line in lines] == ["chain", "test set", "look", "look", "look"]
        match defect:
            case "the first line removed":
                del lines[0]
            case "a line in the middle removed":
                del lines[3]
            case "a grade changed":
                lines[2] = lines[2].replace('"reference":"40"', '"reference":"41"')
            case "the last grade changed":
                lines[4] = lines[4].replace('"reference":"40"', '"reference":"41"')
            case "lines exchanged":
                lines[2], lines[3] = lines[3], lines[2]
            case "not JSON":
                lines[2] = "{"
            case "another object":
                lines[0] = "[]"
            case "cut off":
                lines[4] = lines[4][:40]
            case "emptied":
                lines = []
        chain.write_text("".join(line + "\n" for line in lines))
        damaged = chain.read_bytes()
        with pytest.raises(UsageError, match="chain of looks is broken"):
            look(chain, AB, "d")
        assert chain.read_bytes() == damaged

    @pytest.mark.parametrize(
        ("at", "change"),
        [
            (0, {"salt": "00" * 16}),
            (0, {"format": "drgate looks 2"}),
            (1, {"others": 3}),
            (1, {"key": "", "patients": "AAAAAAAAAAAAAAAAAAAAAA=="}),
            (1, {"test_set": "sha256:00"}),
            (2, {"reference": "040"}),
            (1, {"name": 7}),
            (1, {"more": 1}),
            (2, {"time": "yesterday"}),
            (2, {"look": 0}),
            (2, {"allowed": -3}),
        ],
    )
    def test_a_chain_written_by_hand_is_refused(self, at: int, change: dict[str, object], chain: Path):
        """Every digest is right, and a line is none that drgate writes."""
        look(chain, AB, "a")
        entries = [json.loads(line) for line in chain.read_text().splitlines()]
        entries[at] |= change
        relinked(chain, entries)
        with pytest.raises(UsageError, match=f"line {at + 1}: the chain of looks is broken"):
            look(chain, AB, "b")

    @pytest.mark.parametrize(
        "value", [None, [], {}, -1, 10**400, True, 1.5, "", "x", "A===", "\ud800", [["x", "y", "z"]], {"a": []}]
    )
    def test_nothing_in_a_chain_is_a_traceback(self, value: object, chain: Path):
        """Every value of every line in turn, with every digest right: broken, or read, and never anything else."""
        look(chain, table(list("abcd"), [0, 1, 2, 3], patients=list("pqrs")))
        look(chain, table(list("abcd"), [0, 1, 2, 4], patients=list("pqrs")))
        whole = chain.read_bytes()
        entries = [json.loads(line) for line in whole.splitlines()]
        sentences = []
        for at, entry in enumerate(entries):
            for name in entry.keys() - {"digest"}:
                try:
                    relinked(chain, [*entries[:at], {**entry, name: value}, *entries[at + 1 :]])
                except ValueError:  # no digest of it exists, so none is right
                    chain.write_bytes(json.dumps({**entry, name: None}).replace("null", '"\\ud800"').encode())
                try:
                    assert look(chain, AB, "b").number > 0
                except UsageError as problem:
                    sentences.append(str(problem))
        assert sentences
        assert all(str(chain) in sentence for sentence in sentences)

    def test_a_line_has_one_form(self, chain: Path):
        """A key that stands there twice is one thing to this reader and another to the next."""
        look(chain, AB)
        chain.write_bytes(chain.read_bytes().replace(b'"look":1,', b'"look":7,"look":1,'))
        with pytest.raises(UsageError, match="line 3: the chain of looks is broken"):
            look(chain, AB)

    def test_many_small_test_sets_cost_no_more_than_their_bytes(self, chain: Path):
        """2,000 looks at one image each, before one at 50,000 images: all of these are not gone through for each."""
        look(chain, table(["a"], [0], patients=["p"]))
        header, one, seen = (json.loads(line) for line in chain.read_bytes().splitlines())
        entries = [header]
        for i in range(2_000):
            images = base64.b64encode(i.to_bytes(8, "big")).decode()
            test_set = digest_of([images, 0, ""])
            entries += [{**one, "images": images, "test_set": test_set}, {**seen, "test_set": test_set}]
        relinked(chain, entries)
        images = [str(i) for i in range(50_000)]
        many = table(images, [i % 5 for i in range(50_000)])
        began = time.process_time()
        assert look(chain, many, "other").number == 1
        assert time.process_time() - began < 6

    def test_a_chain_without_end_is_not_read(self, chain: Path, monkeypatch: pytest.MonkeyPatch):
        look(chain, AB)
        monkeypatch.setattr(limits, "CHAIN_BYTES", 1024)
        chain.write_bytes(b" " * 2000)
        with pytest.raises(UsageError, match="is larger than 1 KB"):
            look(chain, AB)

    def test_a_broken_chain_beside_is_refused_too(self, tmp_path: Path):
        (tmp_path / "other.jsonl").write_text("{}\n")
        with pytest.raises(UsageError, match=r"other\.jsonl, line 1"):
            look(tmp_path / "own.jsonl", AB, beside=True)
        assert not (tmp_path / "own.jsonl").exists()

    def test_a_lock_is_held_by_who_lives(self, chain: Path, monkeypatch: pytest.MonkeyPatch):
        """A file that a dead writer left locks nothing; one that another process holds is named."""
        chain.parent.mkdir()
        lock = chain.parent / drgate.looks.LOCK
        lock.touch()
        assert look(chain, AB).number == 1
        monkeypatch.setattr(drgate.looks, "PATIENCE", 0.2)
        with lock.open("a") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            with pytest.raises(UsageError, match=r"\.looks\.lock is held by another command"):
                look(chain, AB, "other model")

    def test_what_decides_beside_the_grade_makes_another_look(self, chain: Path):
        """Macular oedema, patients or slices that were changed after a look: the same model looks again."""
        before = make_predictions(AB.table.assign(camera=["A", "B"]), "before.csv", {})
        first = look(chain, before, checklist=checklist_of(9))
        for column, cells in (("dme", [1, 0]), ("camera", ["A", None]), ("patient", ["p", "q"])):
            changed = make_predictions(before.table.assign(**{column: cells}), "changed.csv", {})
            assert look(chain, changed, checklist=checklist_of(9)).number > first.number, column
        published_form = make_predictions(before.table.drop(columns="camera"), "published.csv", {})
        assert look(chain, published_form, checklist=checklist_of(9)) == first

    def test_no_later_file_allows_more(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        """A chain begun elsewhere with a clock set back and a hundred looks raises nothing."""
        monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
        one, other = tmp_path / "one.jsonl", tmp_path / "other.jsonl"
        look(one, AB, checklist=checklist_of(1))
        monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")
        look(other, AB, "second model", checklist=checklist_of(100, name="lavish"))
        found = look(one, AB, "third model", checklist=checklist_of(1), beside=True)
        assert (found.number, found.allowed) == (3, 1)

    def test_a_link_is_followed(self, tmp_path: Path):
        """The chain that a link names grows, and the link stays one."""
        real, link = tmp_path / "real" / "looks.jsonl", tmp_path / "link.jsonl"
        look(real, AB)
        link.symlink_to(real)
        assert look(link, AB, "other model").number == 2
        assert link.is_symlink()
        assert look(real, AB, "third model").number == 3

    def test_ten_thousand_images_stay_small(self, chain: Path):
        """The images and patients of a test set stand in the file once; a further look adds two characters an image."""
        images = [f"site-a/{i:05}.jpg" for i in range(10_000)]
        patients = [str(i // 2) for i in range(10_000)]
        grades = [i % 5 for i in range(10_000)]
        look(chain, table(images, grades, patients=patients, bare=True))
        first = chain.stat().st_size
        look(chain, table(images, grades, patients=patients, bare=True), "other")
        assert first < 250_000
        assert chain.stat().st_size - first < 25_000


NUMBERS = [f"{4711 + 13 * i:07}" for i in range(80)]
"""Record numbers: of patients, and in the names of their images."""


def of_records(numbers: Sequence[str], *, bare: bool, prefix: str = "") -> Predictions:
    images = [f"{prefix}{number}_left.jpg" for number in numbers]
    contents = None if bare else [str(i) for i in range(len(numbers))]
    return table(images, [i % 5 for i in range(len(numbers))], patients=numbers, contents=contents, bare=bare)


class TestNobodyIsNamed:
    @pytest.fixture(autouse=True)
    def _now(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")

    def test_without_a_key_no_patient_leaves_a_trace(self, tmp_path: Path):
        """Two test sets that differ in whose images they are give the same bytes, so nothing in them can be guessed."""
        for name, numbers in (("one", NUMBERS), ("two", [f"X{number}" for number in NUMBERS])):
            look(tmp_path / name / "t.jsonl", of_records(numbers, bare=False), key=None)
        assert (tmp_path / "one/t.jsonl").read_bytes() == (tmp_path / "two/t.jsonl").read_bytes()

    def test_without_a_key_names_are_known_only_together(self, tmp_path: Path):
        """Of 80 names in a bare table one digest is kept: whoever lacks one of them cannot check the others."""
        kept = []
        for name, prefix in (("one", ""), ("two", "x")):
            look(tmp_path / name / "t.jsonl", of_records(NUMBERS, bare=True, prefix=prefix), key=None)
            entries = [json.loads(line) for line in (tmp_path / name / "t.jsonl").read_text().splitlines()]
            kept.append([{k: v for k, v in entry.items() if k not in ("previous", "digest")} for entry in entries])
        differ = {(one["kind"], name) for one, two in zip(*kept, strict=True) for name in one if one[name] != two[name]}
        assert differ == {("test set", "test_set"), ("test set", "names"), ("look", "test_set")}
        few, others = (table(names, [0, 1], bare=True) for names in (NUMBERS[:2], NUMBERS[2:4]))
        assert Seen.of(few, "t").names == Seen.of(others, "t").names, "two names could be guessed at once"

    def test_with_a_key_only_the_key_tells(self, tmp_path: Path):
        """Under another key the same 80 record numbers are other bytes; under the same one they are the same."""
        people = of_records(NUMBERS, bare=True)
        for name, key in (("one", KEY), ("two", KEY), ("three", OTHER)):
            look(tmp_path / name / "t.jsonl", people, key=key)
        one, two, three = (
            json.loads((tmp_path / name / "t.jsonl").read_text().splitlines()[1]) for name in ("one", "two", "three")
        )
        assert one == two
        assert {name for name in one if one[name] != three[name]} == {"key", "named", "patients", "digest"}

    def test_changed_grades_are_listed_without_a_name(self, chain: Path):
        """Images that are known by name alone stand in the chain by their place."""
        look(chain, table(["10_left", "11_left", "12_left"], [0, 4, 1], bare=True))
        again = look(chain, table(["10_left", "11_left", "12_left"], [1, 4, 1], bare=True))
        assert again.regraded == (Regraded("10_left", 0, 1),)
        assert "_left" not in chain.read_text()
        assert json.loads(chain.read_text().splitlines()[-1])["regraded"] == [["row-1", "0", "1"]]

    @pytest.mark.parametrize("uses", [{"slices": [{"by": "site"}]}, {"site_column": "site"}])
    def test_a_column_that_no_checklist_uses_cannot_be_guessed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uses: dict[str, object]
    ):
        """One site for all, on a list of sites. The column changed is another look still."""
        monkeypatch.chdir(tmp_path)
        own = of_records(NUMBERS, bare=False)
        sited = make_predictions(own.table.assign(site="St Mary"), "t", {})
        unused, used = (
            parse_checklist(
                {"name": f"c{len(used)}", "version": 1, "looks": 9, "criteria": [{"id": "accuracy", "at_least": 0.5}]}
                | used,
                "t",
            )
            for used in ({}, uses)
        )
        first, path = Log().look(sited, "t", unused, model="m")
        guess = hashlib.sha256(column_bytes("site", sited.table["site"])).hexdigest()
        assert " (keyed)" in path.read_text()
        assert guess not in path.read_text()
        assert Log().look(sited, "t", used, model="m")[0] == first
        moved = make_predictions(sited.table.assign(site=["B"] + ["St Mary"] * 79), "t", {})
        assert Log().look(moved, "t", used, model="m")[0].number == 2
        assert Log().look(published(sited, used), "t", used, model="m")[0] == first

    def test_the_published_table_is_the_same_look(self, tmp_path: Path):
        """Published names and numbers for patients: the images, the grades and the answers are the same."""
        for bare in (False, True):
            chain = tmp_path / str(bare) / "t.jsonl"
            own = of_records(NUMBERS, bare=bare)
            frame = own.table.assign(image=published_names(own.table), patient=[str(i + 1) for i in range(80)])
            public = make_predictions(frame.drop(columns="sha256", errors="ignore"), "p", {})
            first = look(chain, own, None)
            again = look(chain, public, None)
            assert again == first
            assert is_look_at(json.loads(chain.read_text().splitlines()[-1]), public)
            assert not Seen.of(public, "t", KEY).patients, "numbers are no patients"


class TestKeys:
    """What could not be compared is counted and said."""

    one = table(["a", "b"], [0, 4], patients=["p1", "p2"])
    two = table(["c", "d"], [0, 4], patients=["p2", "p3"])

    @pytest.mark.parametrize(
        ("first", "second", "says"),
        [
            (None, None, "no patient key (--patient-key) was given"),
            (KEY, None, "no patient key (--patient-key) was given"),
            (None, KEY, "they were logged without patients or with another patient key"),
            (OTHER, KEY, "they were logged without patients or with another patient key"),
        ],
    )
    def test_patients_under_another_key_are_not_compared(
        self, first: PatientKey | None, second: PatientKey | None, says: str, chain: Path
    ):
        look(chain, self.one, key=first)
        found = look(chain, self.two, "other", key=second)
        assert (found.number, found.unlinked) == (1, 1)
        page = evaluate(self.two, checklist_of(), look=found).page_one
        assert f"Overlap with 1 other logged test set was checked by the contents of images alone: {says}." in page

    def test_patients_under_the_same_key_are(self, chain: Path):
        look(chain, self.one)
        found = look(chain, self.two, "other")
        assert (found.number, found.unlinked) == (2, 0)
        assert not any(
            "was not checked" in line for line in evaluate(self.two, checklist_of(), look=found).page_one[:2]
        )

    def test_a_key_given_later_adds_the_patients_and_no_look(self, chain: Path):
        first = look(chain, self.one, key=None)
        assert look(chain, self.one) == first
        assert look(chain, self.two, "other").number == 2
        assert look(chain, self.one, key=None) == first

    def test_a_bare_set_is_recognised_whole_without_a_key_and_in_part_with_one(self, tmp_path: Path):
        whole, part = table(list("abcd"), [0, 1, 2, 3], bare=True), table(list("bcde"), [1, 2, 3, 4], bare=True)
        for name, key, number in (("none", None, 1), ("key", KEY, 2)):
            chain = tmp_path / name / "looks.jsonl"
            look(chain, whole, key=key)
            assert look(chain, part, "other", key=key).number == number
            assert look(chain, whole, "third", key=OTHER).number == 2, "whole, whatever the key"

    def test_a_key_is_written_once_and_read(self, tmp_path: Path):
        path = tmp_path / "keys" / "patients.key"
        made = generate_patient_key(path)
        assert load_patient_key(path) == made
        assert path.stat().st_mode & 0o777 == 0o600
        assert (
            made.id
            == hashlib.sha256(b"drgate patient key" + bytes.fromhex(path.read_text().split()[-1])).hexdigest()[:8]
        )
        with pytest.raises(UsageError, match="never overwritten"):
            generate_patient_key(path)

    @pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"drgate patient key 1\nabc\n", b"x" * 5000, b"4711"])
    def test_what_is_no_key_is_refused_unseen(self, content: bytes, tmp_path: Path):
        path = tmp_path / "patients.key"
        path.write_bytes(content)
        with pytest.raises(UsageError, match="a patient key, as") as raised:
            load_patient_key(path)
        assert "4711" not in str(raised.value)


class TestTables:
    def test_exports_of_the_same_answers_are_one_look(self, chain: Path):
        """Other probabilities, the same grades: one look; another grade: the next."""
        first = look(chain, AB, None)
        sharper = AB.table.assign(p_0=[0.9, 0.0], p_1=0.0, p_2=0.0, p_3=[0.1, 0.1], p_4=[0.0, 0.9])
        assert look(chain, make_predictions(sharper, "t", {}), None) == first
        assert look(chain, table(["a", "b"], [0, 4], [0, 3]), None).number == 2

    def test_a_table_of_a_model_that_was_looked_at_is_its_look(self, chain: Path):
        first = look(chain, AB, "model")
        assert look(chain, AB, None) == first
        assert look(chain, AB, "another model").number == 2, "of a model, the tensors decide"

    def test_a_certificate_of_a_table_cannot_borrow_a_look(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        """It names the line of another table, whose number is lower: the line is of other answers."""
        monkeypatch.chdir(tmp_path)
        chain, folder = Path("looks.jsonl"), Path("report")
        other = table(["a", "b"], [0, 4], [0, 0])
        first, _ = Log(chain).look(other, "t", checklist_of(2), model=None)
        second, _ = Log(chain).look(AB, "t", checklist_of(2), model=None)
        mine = published(AB, checklist_of(2))
        model = Model("predictions table", "t.csv", (Subject("t.csv", "0" * 64, 1, "table"),))
        write_predictions(mine, folder / "predictions.parquet")
        for look_named, answers in ((second, []), (first, ["is of other answers than the predictions"])):
            statement, _ = certify(evaluate(mine, checklist_of(2), look=look_named, model=model), None)
            (folder / "statement.json").write_bytes(statement)
            found = verify(folder / "statement.json", given=Given(looks=chain))
            assert [problem for problem in found.problems if "look" in problem] == [
                f"The look's line in {chain} {answer}." for answer in answers
            ]

    def test_the_usual_place(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        """Without a file, one a test set in reports/looks, and those beside it count."""
        monkeypatch.chdir(tmp_path)
        first, path = Log().look(AB, "t", checklist_of(2), model="a")
        assert path.parent == Path("reports/looks")
        other, own = Log(Path("own.jsonl")).look(AB, "t", checklist_of(2), model="b")
        assert (first.number, other.number, own) == (1, 2, Path("own.jsonl"))
