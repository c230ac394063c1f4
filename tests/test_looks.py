"""The chain of looks: what counts together, what keeps its place, what is told of changed grades, what is refused."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

import drgate.looks
from drgate.checklist import Checklist, parse_yaml
from drgate.errors import UsageError
from drgate.evaluation import Favour, Look, Overlap, Regraded
from drgate.files import digest_of
from drgate.looks import Seen, take_look
from drgate.predictions import Predictions, make_predictions


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
) -> Predictions:
    """Predictions, perfect where no other are given; a grade None is not gradable. contents: what the files hold."""
    columns: dict[str, object] = {
        "image": images,
        "grade": grades,
        "predicted": grades if predicted is None else predicted,
    }
    columns["gradable"] = [grade is not None for grade in grades]
    if patients is not None:
        columns["patient"] = patients
    if contents is not None:
        columns["sha256"] = [hashlib.sha256(content.encode()).hexdigest() for content in contents]
    frame = pd.DataFrame(columns)
    return make_predictions(
        frame.assign(**{name: frame[name].astype("Int8") for name in ("grade", "predicted")}), "t", {}
    )


def look(
    path: Path,
    predictions: Predictions,
    model: str = "model",
    *,
    checklist: Checklist | None = None,
    beside: bool = False,
) -> Look:
    """A look logged in `path`; beside: counting the other chains of its folder, as the default does."""
    others = [other for other in sorted(path.parent.glob("*.jsonl")) if other != path] if beside else []
    seen = Seen.of(predictions, path.stem)
    return take_look(
        path, seen, model=model, predictions=predictions.digest, checklist=checklist or checklist_of(2), others=others
    )


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
        assert replace(first, line=None) == Look(1, 2, "2023-11-14T22:13:20Z")
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
                lines[2] = lines[2].replace('"reference":"04"', '"reference":"14"')
            case "the last grade changed":
                lines[4] = lines[4].replace('"reference":"04"', '"reference":"14"')
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
            (0, {"cost": 3}),
            (0, {"cost": 1 << 15}),
            (0, {"cost": True}),
            (0, {"salt": "00 11"}),
            (0, {"format": "drgate looks 1"}),
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
        entries, previous, lines = [json.loads(line) for line in chain.read_text().splitlines()], "", []
        entries[at] |= change
        for entry in entries:
            linked = {**entry, "previous": previous}
            del linked["digest"]
            previous = digest_of(linked)
            lines.append(json.dumps({**linked, "digest": previous}))
        chain.write_text("".join(line + "\n" for line in lines))
        with pytest.raises(UsageError, match=f"line {at + 1}: the chain of looks is broken"):
            look(chain, AB, "b")

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
        first = look(chain, AB)
        for column, cells in (("dme", [1, 0]), ("camera", ["A", None]), ("patient", ["p", "q"])):
            changed = make_predictions(AB.table.assign(**{column: cells}), "changed.csv", {})
            assert look(chain, changed).number > first.number, column

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

    def test_patients_and_image_names_do_not_stand_in_the_file(self, chain: Path):
        """Neither plainly nor as a hash that can be looked up: each chain has a salt of its own."""
        people = table(["10_left", "11_left"], [0, 4], patients=["patient-10", "patient-11"])
        look(chain, people)
        look(chain, table(["10_left", "11_left"], [1, 4], patients=["patient-10", "patient-11"]))
        text = chain.read_text()
        assert "patient-1" not in text
        assert "_left" not in text
        elsewhere = chain.with_name("elsewhere.jsonl")
        look(elsewhere, people)
        hashed = [json.loads(path.read_text().splitlines()[1])["patients"] for path in (chain, elsewhere)]
        assert hashed[0] != hashed[1]
        plain = [hashlib.sha256(name.encode()).digest()[:8] for name in ("patient-10", "patient-11")]
        assert not set(plain) & {base64.b64decode(hashed[0])[i : i + 8] for i in (0, 8)}

    def test_ten_thousand_images_stay_small(self, chain: Path):
        """The images and patients of a test set stand in the file once; a further look adds two characters an image."""
        images = [f"site-a/{i:05}.jpg" for i in range(10_000)]
        patients = [str(i // 2) for i in range(10_000)]
        grades = [i % 5 for i in range(10_000)]
        look(chain, table(images, grades, patients=patients))
        first = chain.stat().st_size
        look(chain, table(images, grades, patients=patients), "other")
        assert first < 250_000
        assert chain.stat().st_size - first < 25_000
