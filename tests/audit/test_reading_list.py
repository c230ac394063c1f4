"""Reading again, masked: what readers see, what their answers change, and that the looks at the set go on counting."""

import json
import subprocess
from dataclasses import replace

import pandas as pd
import pytest
from PIL import Image

from drgate.audit.evidence import photographs
from drgate.audit.reading_list import read_again, reading_list, write_reading
from drgate.audit.result import Audit, Check, Finding
from drgate.checklist import load_checklist
from drgate.errors import ManifestError, UsageError
from drgate.looks import Log
from drgate.manifest import load_manifest
from drgate.predictions import make_predictions
from tests.support.material import photograph

GRADES = [0, 0, 1, 2, 3, 4, 0, 1, 2, 0]


@pytest.fixture
def data(tmp_path):
    """Ten photographs in folders named after their grades."""
    for i, grade in enumerate(GRADES):
        photograph(tmp_path / "data" / str(grade) / f"mary-{i}.PNG", seed=i)
    return tmp_path / "data"


@pytest.fixture
def test(data):
    return photographs(load_manifest(data), workers=1)


def own(test, name):
    return test.names[[path.name for path in test.paths].index(f"mary-{name}.PNG")]


def accused(test, *numbers):
    return Check.of("mislabelled", [Finding(test=own(test, i), value=0.01, what="graded 4") for i in numbers])


class TestList:
    def test_the_accused_among_as_many_others(self, test):
        """Each accused photograph once, as many others, under published names; no column beside the two names."""
        pair = Check.of("fellow_eyes", [Finding(test=own(test, 1), other=own(test, 2))])
        wanted = reading_list([accused(test, 1, 5), pair], test, seed=7)
        assert list(wanted.columns) == ["image", "own_image"]
        names = wanted["image"].str.removesuffix(".png")
        assert names.is_unique
        assert {own(test, i) for i in (1, 2, 5)} < set(names)
        assert len(names) == 6
        theirs = dict(zip(test.names, test.table["image"], strict=True))
        assert [theirs[name] for name in names] == wanted["own_image"].tolist()

    def test_the_seed_decides_the_others_and_the_order(self, test):
        """The same audit gives the same list; the accused do not come first."""
        checks = [accused(test, 1, 5, 7)]
        lists = [reading_list(checks, test, seed)["image"].tolist() for seed in range(40)]
        assert lists[0] == reading_list(checks, test, 0)["image"].tolist()
        assert len({frozenset(one) for one in lists}) > 10
        first = [one[0][:16] in {own(test, i) for i in (1, 5, 7)} for one in lists]
        assert 8 < sum(first) < 32

    def test_what_cannot_be_read_or_has_no_grade_is_no_other(self, test):
        """The others are photographs at hand whose grades are in question as well."""
        table = test.table.assign(grade=test.table["grade"].mask(test.table["grade"] == 0))
        named = zip(test.paths, test.contents, strict=True)
        contents = tuple("" if path.name == "mary-2.PNG" else one for path, one in named)
        bare = replace(test, table=table, contents=contents)
        shown = reading_list([accused(bare, 5, 3, 4)], bare, 1)["own_image"]
        assert set(shown) == {f"{grade}/mary-{i}.PNG" for i, grade in ((5, 4), (3, 2), (4, 3), (7, 1), (8, 2))}

    def test_nobody_accused(self, test):
        assert reading_list([Check("mislabelled", "clean")], test, 1).empty


class TestWritten:
    def test_readers_see_photographs_and_nothing_else(self, test, tmp_path):
        """Their folder has no grade, no own name; it and the list are the owner's alone, and Git leaves both out."""
        wanted = reading_list([accused(test, 1, 5)], test, seed=7)
        out = tmp_path / "out"
        out.mkdir()
        (out / ".gitignore").write_text("names.csv\n")
        write_reading(wanted, test, out)
        assert {path.name for path in (out / "to_read").iterdir()} == set(wanted["image"])
        for image, own_image in zip(wanted["image"], wanted["own_image"], strict=True):
            assert (out / "to_read" / image).read_bytes() == (test.paths[0].parents[1] / own_image).read_bytes()
        assert pd.read_csv(out / "to_read.csv").equals(wanted)
        assert [(out / name).stat().st_mode & 0o077 for name in ("to_read", "to_read.csv")] == [0, 0]
        subprocess.run(["git", "init", "-q", out], check=True)
        seen = subprocess.run(["git", "-C", out, "status", "--porcelain", "-uall"], capture_output=True, text=True)
        assert seen.stdout.split() == ["??", ".gitignore"]
        with pytest.raises(UsageError, match="exists"):
            write_reading(wanted, test, out)

    def test_a_photograph_that_changed_is_not_shown(self, test, tmp_path):
        """What is read again is what was audited; else nothing is written."""
        Image.new("RGB", (48, 48)).save(test.paths[0])
        with pytest.raises(ManifestError, match="changed after it was audited"):
            write_reading(reading_list([accused(test, *range(10))], test, 1), test, tmp_path / "out")
        assert list((tmp_path / "out").iterdir()) == []


@pytest.fixture
def sheet(tmp_path, test):
    """A reader's answers: by number of the photograph a grade, or None for ungradable."""

    def write(name, answers):
        rows = [(f"{own(test, i)}.png", grade, grade is not None) for i, grade in answers.items()]
        path = tmp_path / f"{name}.csv"
        pd.DataFrame(rows, columns=["image", "grade", "gradable"]).astype({"grade": "Int64"}).to_csv(path, index=False)
        return path

    return write


class TestReadAgain:
    def test_a_grade_changes_where_most_readers_agree(self, data, sheet):
        """Of three readers two are most; 5 was 4 and becomes 2, 6 is confirmed, 7 has three answers, 8 two of two."""
        answers = [
            sheet("one", {5: 2, 6: 0, 7: 0, 8: None}),
            sheet("two", {5: 2, 6: 0, 7: 2, 8: None}),
            sheet("three", {5: 4, 6: 1, 7: 3}),
        ]
        manifest = load_manifest(data)
        again = read_again(manifest, answers)
        assert (again.changed, again.confirmed, again.undecided) == (2, 1, 1)
        before, after = manifest.table.set_index("image"), again.manifest.table.set_index("image")
        differ = before["grade"].fillna(-1) != after["grade"].fillna(-1)
        assert set(after.index[differ]) == {"4/mary-5.PNG", "2/mary-8.PNG"}
        assert after["grade"]["4/mary-5.PNG"] == 2
        assert not after["gradable"]["2/mary-8.PNG"]
        assert after["gradable"].sum() == 9

    def test_both_rows_of_one_picture_under_two_grades_are_mended(self, data, sheet):
        """What readers say of a picture holds for each file of it."""
        (data / "1" / "copy.PNG").write_bytes((data / "4" / "mary-5.PNG").read_bytes())
        again = read_again(load_manifest(data), [sheet("one", {5: 4}), sheet("two", {5: 4})])
        assert (again.changed, again.confirmed) == (1, 0)
        assert again.manifest.contradictions() == []

    def test_what_is_no_answer_is_refused(self, data, sheet, tmp_path):
        manifest, one = load_manifest(data), sheet("one", {5: 2})
        other, twice, bare = (tmp_path / f"{name}.csv" for name in ("other", "twice", "bare"))
        other.write_text("image,grade\n0123456789abcdef.png,2\n")
        twice.write_text(one.read_text() + one.read_text().splitlines()[1].replace(".png", ".jpg") + "\n")
        bare.write_text("image\na.png\n")
        for answers, said in (
            ([one], "2 readers or more"),
            ([one, other], "0123456789abcdef.png is no image of"),
            ([one, twice], "two rows for one photograph"),
            ([one, bare], "no grades"),
            ([one, sheet("six", {5: 6})], "grade"),
        ):
            with pytest.raises(ManifestError, match=said):
                read_again(manifest, answers)
        refers = replace(manifest, table=manifest.table.assign(referable=0))
        with pytest.raises(ManifestError, match="only whether to refer"):
            read_again(refers, [one, one])

    def test_the_new_version_continues_the_chain(self, data, sheet, drgate, tmp_path, monkeypatch):
        """`drgate manifest --readings` writes it; the next look is the second, and names the changed grade and whom
        it favours."""
        monkeypatch.chdir(tmp_path)
        first = load_manifest(data)
        readings = [sheet("one", {5: 0, 6: 0}), sheet("two", {5: 0, 6: 0})]
        given = [text for path in readings for text in ("--readings", path)]
        ended = drgate("manifest", data, *given, "--out", data / "labels.csv")
        assert ended.code == 0
        assert "Read again: 1 changed, 1 confirmed, 0 without agreement." in ended.err
        assert f"Digest: {load_manifest(data).digest()}" in ended.out
        looks = []
        for manifest in (first, load_manifest(data)):
            table = manifest.table.drop(columns="split").assign(
                sha256=list(manifest.content_digests().values()), predicted=0
            )
            looks.append(
                Log(tmp_path / "chain.jsonl").look(
                    make_predictions(table, "t", {}), "set", load_checklist("medical-grade"), model="m"
                )[0]
            )
        assert [look.number for look in looks] == [1, 2]
        assert [(one.before, one.to) for one in looks[1].regraded] == [(4, 0)]
        assert [one.favouring for one in looks[1].favouring] == [1]

    def test_bad_readings_write_nothing(self, data, sheet, refused):
        """One reader's answers change no grade: one sentence, exit code 2."""
        said = refused("manifest", data, "--readings", sheet("one", {5: 0}), "--out", data / "labels.csv")
        assert "A grade changes only by 2 readers or more" in said
        assert not (data / "labels.csv").exists()


def test_a_check_reads_back(test):
    """What the list is made from is in audit.json, so that it can be made again from there."""
    check = accused(test, 1, 5)
    back = Audit.from_json(json.loads(json.dumps(Audit({}, {}, (check,)).to_json())))
    assert reading_list(back.checks, test, 3).equals(reading_list([check], test, 3))
