"""`drgate audit`: what is found is named and ends with 1, what cannot be checked is said, and no name is published."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageOps

from drgate.audit.result import CHECKS, DECIDE, Audit, Check
from drgate.demo.synthetic import write_dataset
from drgate.files import sha256_file
from tests.support.material import Ended

HOSTILE = "</script><script>window.hacked=1</script><img src=x onerror=window.hacked=1>"

Drgate = Callable[..., Ended]


@pytest.fixture(autouse=True)
def without_patient_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DRGATE_PATIENT_KEY", raising=False)


@pytest.fixture(scope="module")
def fundi(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Synthetic photographs in the three splits, both eyes of 13 patients."""
    folder = tmp_path_factory.mktemp("audit") / "fundi"
    write_dataset(
        folder,
        seed=5,
        train_patients=[2, 1, 1, 1, 1],
        val_patients=[1, 0, 0, 0, 0],
        test_patients=[2, 1, 1, 1, 1],
        size=192,
        workers=1,
    )
    return folder


class Set:
    """A copy of the photographs whose table can be changed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.table = pd.read_csv(folder / "labels.csv", dtype=str)

    @property
    def test(self) -> pd.DataFrame:
        return self.table[self.table["split"] == "test"].reset_index(drop=True)

    def add(self, name: str, **changes: str) -> Path:
        """A further training row like the first one of the test set, of a patient of its own."""
        row = {**self.test.iloc[0].to_dict(), "image": name, "patient": "someone-4711", "split": "train", **changes}
        self.table = pd.concat([self.table, pd.DataFrame([row])], ignore_index=True)
        return self.folder / name

    def write(self) -> Path:
        self.table.to_csv(self.folder / "labels.csv", index=False)
        return self.folder

    def published(self, image: str) -> str:
        return sha256_file(self.folder / image)[:16]


@pytest.fixture
def copied(fundi: Path, tmp_path: Path) -> Set:
    folder = tmp_path / "data"
    shutil.copytree(fundi, folder)
    return Set(folder)


def audited(ended: Ended) -> Audit:
    return Audit.from_json(json.loads(ended.out))


def statuses(found: Audit) -> dict[str, str]:
    return {one.id: one.status for one in found.checks}


class TestFound:
    def test_a_clean_set_ends_with_0(self, drgate: Drgate, fundi: Path):
        """Every check that decides is clean, each question is asked once and the answer is a sentence."""
        ended = drgate("audit", fundi, "--format", "json")
        found = audited(ended)
        assert [one.id for one in found.checks] == list(CHECKS)
        assert {one.id: one.status for one in found.deciding} == dict.fromkeys(DECIDE[1:], "clean")
        assert ended.code == 0
        assert found.check("label_conflicts").reason.startswith("Training photographs are compared with each other by")

    def test_a_second_audit_decodes_nothing_and_says_the_same(
        self, drgate: Drgate, fundi: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        """What was seen of each photograph lies in the cache; the bytes of the audit are those without one."""
        plain = drgate("audit", fundi, "--format", "json").out
        monkeypatch.setenv("DRGATE_CACHE", str(tmp_path / "cache"))
        assert drgate("audit", fundi, "--format", "json").out == plain
        monkeypatch.setattr("drgate.audit.evidence.examine", lambda of: pytest.fail("examined again"))
        assert drgate("audit", fundi, "--format", "json").out == plain

    def test_a_cache_that_cannot_be_used_is_said_once(
        self, drgate: Drgate, copied: Set, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        """Test set and training share it."""
        (tmp_path / "taken").write_text("")
        monkeypatch.setenv("DRGATE_CACHE", str(tmp_path / "taken"))
        assert drgate("audit", copied.folder).err.count("cannot be used") == 1

    @pytest.mark.parametrize("kind", ["patients", "eyes", "files", "pixels", "near_duplicates", "label_conflicts"])
    def test_each_leak_is_found_and_named(self, drgate: Drgate, copied: Set, kind: str):
        """Exit code 1; the finding has the test photograph's published name, the terminal the caller's own."""
        first = copied.test.iloc[0]
        image = Image.open(copied.folder / first["image"])
        image.load()
        match kind:
            case "patients":
                fellow = copied.test[copied.test["patient"] == first["patient"]].iloc[1]
                copied.table.loc[copied.table["image"] == fellow["image"], "split"] = "train"
            case "eyes":
                source = copied.table[copied.table["split"] == "train"].iloc[0]["image"]
                path = copied.add("images/year-2.jpg", patient=first["patient"], eye=first["eye"])
                Image.open(copied.folder / source).rotate(7).save(path)
            case "files":
                shutil.copy(copied.folder / first["image"], copied.add("images/copy.jpg"))
            case "pixels":
                image.save(copied.add("images/copy.png"))
            case "near_duplicates":
                ImageOps.mirror(image.resize((170, image.height * 170 // image.width))).save(
                    copied.add("images/small.jpg"), quality=85
                )
            case "label_conflicts":
                grade = "0" if first["grade"] != "0" else "4"
                shutil.copy(copied.folder / first["image"], copied.add("images/copy.jpg", grade=grade, split="test"))
        ended = drgate("audit", copied.write(), "--format", "json")
        check = audited(ended).check(kind)
        assert check.status == "found", audited(ended)
        assert copied.published(first["image"]) in [one.test for one in check.findings]
        assert ended.code == 1
        told = drgate("audit", copied.folder)
        assert told.code == 1
        assert "The evidence is not clean" in told.out.splitlines()[0]
        assert first["image"] in told.out

    def test_training_manifests_add_to_the_sets_own_splits(self, drgate: Drgate, copied: Set, tmp_path: Path):
        """A copy in another folder is found there; of that one's splits, train and val count and test does not."""
        first = copied.test.iloc[0]
        other = tmp_path / "other"
        other.mkdir()
        shutil.copy(copied.folder / first["image"], other / "a.jpg")
        Image.open(copied.folder / copied.table.iloc[0]["image"]).rotate(9).save(other / "b.jpg")
        labels = "image,grade,patient,split\na.jpg,{grade},x,{split}\nb.jpg,0,y,train\n"
        for split, code in (("val", 1), ("test", 0)):
            (other / "labels.csv").write_text(labels.format(grade=first["grade"], split=split))
            ended = drgate("audit", copied.folder, other, "--format", "json")
            assert (audited(ended).check("files").status == "found") == (code == 1)
            assert ended.code in (code, 3)

    def test_what_is_in_neither_side_is_counted(self, drgate: Drgate, copied: Set, tmp_path: Path):
        """The split test of training data, and images without a split in a set that has splits."""
        other = tmp_path / "other"
        other.mkdir()
        for number, image in enumerate(copied.table["image"].iloc[:4]):
            shutil.copy(copied.folder / image, other / f"{number}.jpg")
        (other / "labels.csv").write_text("image,grade,split\n0.jpg,0,train\n1.jpg,0,test\n2.jpg,0,test\n3.jpg,0,\n")
        whole = len(copied.test)
        copied.table.loc[copied.table.index[copied.table["split"] == "test"][0], "split"] = ""
        found = audited(drgate("audit", copied.write(), other, "--no-images", "--format", "json"))
        split, unsplit = (
            "of its split test, which is not training data",
            "without a split, though others have one",
        )
        assert found.settings["left_out"] == [
            {"name": "data", "images": 1, "why": unsplit},
            {"name": "other", "images": 2, "why": split},
            {"name": "other", "images": 1, "why": unsplit},
        ]
        assert found.settings["test"]["images"] == whole - 1
        told = " ".join(drgate("audit", copied.folder, other, "--no-images").out.split())
        assert f"Left out: data: 1 photograph {unsplit}; other: 2 photographs {split};" in told

    def test_without_splits_nothing_is_left_out(self, drgate: Drgate, copied: Set, fundi: Path):
        """All of such a set is used."""
        copied.table = copied.table.drop(columns="split")
        found = audited(drgate("audit", fundi, copied.write(), "--no-images", "--format", "json"))
        assert found.settings["left_out"] == []
        assert "Left out" not in drgate("audit", fundi, copied.folder, "--no-images").out

    def test_what_only_informs_never_changes_the_exit_code(self):
        """Shortcuts, quality, case mix and the like: found or not assessed, the code is that of the leak checks."""
        clean = [Check(name, "clean") for name in DECIDE]
        for status in ("found", "suspected", "not_assessed", "clean"):
            rest = [Check(name, status) for name in CHECKS if name not in DECIDE]
            assert Audit({}, {}, (*clean, *rest)).exit_code == 0

    @pytest.mark.parametrize("name", DECIDE)
    def test_what_decides_does(self, name: str):
        """Found is 1; suspected and not assessed are 3, and of lineage only where there is a model to ask of."""
        for status, code in (("found", 1), ("suspected", 3), ("not_assessed", 3), ("clean", 0)):
            checks = tuple(Check(one, status if one == name else "clean") for one in DECIDE)
            assert Audit({"checkpoint": {}}, {}, checks).exit_code == code
            without = 0 if name == "lineage" else code
            assert Audit({"checkpoint": None}, {}, checks).exit_code == without
        assert Audit({}, {}, ()).exit_code == 3


class TestNotAssessed:
    def test_without_training_data_nothing_is_called_clean(self, drgate: Drgate, copied: Set):
        """Exit code 3, and it says what to give."""
        copied.table = copied.test
        ended = drgate("audit", copied.write())
        assert ended.code == 3
        assert "not shown to be clean" in ended.out.splitlines()[0]
        assert "--checkpoint" in ended.out

    def test_a_photograph_that_cannot_be_read(self, drgate: Drgate, copied: Set, tmp_path: Path):
        """It is named at the terminal and counted in the file, and nothing is clean for it."""
        image = copied.folder / copied.test.iloc[1]["image"]
        image.write_bytes(image.read_bytes()[:200])
        out = tmp_path / "out"
        ended = drgate("audit", copied.folder, "--out", out)
        assert ended.code == 3
        assert str(image) in ended.err
        found = Audit.from_json(json.loads((out / "audit.json").read_text()))
        assert found.settings["test"]["unreadable"] == found.unreadable == 1
        assert found.check("near_duplicates").status == "not_assessed"
        assert "1 cannot be read" in ended.out

    def test_names_of_unreadable_photographs_stay_text_at_the_terminal(self, drgate: Drgate, copied: Set):
        """A line break or a colour code in a file's name is shown, not obeyed; the sixth of them is counted."""
        for number in range(6):
            copied.add(f"images/a\n\x1b[31m{number}.jpg", split="test").write_bytes(b"junk" * number)
        ended = drgate("audit", copied.write())
        assert "\x1b" not in ended.err + ended.out
        assert r"a\n\x1b[31m0.jpg" in ended.err
        assert "1 more photograph cannot be read." in ended.err

    def test_a_set_without_patients(self, drgate: Drgate, copied: Set):
        """Patients are not assessed, for a set that names none."""
        copied.table = copied.table.drop(columns=["patient"])
        found = audited(drgate("audit", copied.write(), "--format", "json"))
        assert statuses(found)["patients"] == "not_assessed"
        assert found.exit_code == 3

    def test_rows_alone(self, drgate: Drgate, tmp_path: Path):
        """--no-images compares what tables say, where the photographs are elsewhere; 1,000 rows take a second."""
        rows = [f"a/{i}.jpg,{i % 5},p{i // 2},{'LR'[i % 2]},{'test' if i < 200 else 'train'}" for i in range(1000)]
        rows.append("a/again.jpg,0,p3,L,train")
        (tmp_path / "labels.csv").write_text("\n".join(["image,grade,patient,eye,split", *rows]) + "\n")
        ended = drgate("audit", tmp_path / "labels.csv", "--no-images", "--format", "json")
        found = audited(ended)
        assert ended.code == 1
        assert found.check("patients").count == 1
        place = sorted(f"a/{i}.jpg" for i in range(200)).index("a/6.jpg")  # the first of p3
        assert found.check("patients").findings[0].test == f"row-{place + 1}"
        assert statuses(found)["near_duplicates"] == statuses(found)["pixels"] == "not_assessed"

    def test_a_fingerprint_of_an_earlier_version(self, drgate: Drgate, copied: Set, tmp_path: Path):
        """Its hashes cannot be compared with today's: exit code 3, never clean. The base model is not needed."""
        from drgate.vision.checkpoint import save_checkpoint
        from drgate.vision.fingerprint import Fingerprint
        from tests.support import tiny

        base = tiny.tiny_base(tmp_path / "base")
        hashes = np.arange(64, dtype=np.uint8).reshape(2, 32)
        older = replace(Fingerprint.build([], tiny.people("10"), None), older=hashes)
        path = tmp_path / "best_model.pth"
        save_checkpoint(path, tiny.checkpoint_of(tiny.random_model(base), base, fingerprint=older))
        shutil.rmtree(tmp_path / "base")
        copied.table = copied.test
        ended = drgate("audit", copied.write(), "--checkpoint", path, "--format", "json")
        found = audited(ended)
        assert ended.code == 3
        assert found.settings["checkpoint"]["fingerprint"] is True
        assert statuses(found)["near_duplicates"] == "not_assessed"

    def test_splits_that_training_dealt_are_dealt_again(self, drgate: Drgate, copied: Set, tmp_path: Path):
        """A set without splits, of which the model's record has digest and seed: training images are not accused."""
        from drgate.manifest import load_manifest, split_by_patient
        from drgate.vision.checkpoint import save_checkpoint
        from tests.support import tiny

        copied.table = copied.table.drop(columns=["split"])
        copied.write()
        manifest = load_manifest(copied.folder)
        base = tiny.tiny_base(tmp_path / "base")
        record = {"dealt_by_seed": 3, "dataset_digest": manifest.digest()}
        path = tmp_path / "best_model.pth"
        save_checkpoint(path, tiny.checkpoint_of(tiny.random_model(base), base, record=record))
        ended = drgate("audit", copied.folder, "--checkpoint", path, "--format", "json")
        test = split_by_patient(manifest, seed=3).select("test")
        assert audited(ended).settings["test"]["images"] == len(test) < len(manifest)
        assert audited(ended).check("files").status != "found"


class TestPredictions:
    @pytest.fixture
    def table(self, copied: Set, tmp_path: Path) -> Path:
        """Answers for the test set, the first of them far from its grade."""
        rows = []
        for i, row in copied.test.iterrows():
            p = [0.01] * 5
            p[4 - int(row["grade"]) if i == 0 and row["grade"] != "2" else int(row["grade"])] = 0.96
            rows.append({"image": row["image"], "grade": row["grade"], **{f"p_{k}": x for k, x in enumerate(p)}})
        path = tmp_path / "predictions.csv"
        pd.DataFrame(rows).to_csv(path, index=False)
        return path

    @pytest.fixture(autouse=True)
    def here(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "here").mkdir()
        monkeypatch.chdir(tmp_path / "here")

    def test_a_look_is_taken_once(self, drgate: Drgate, copied: Set, table: Path, tmp_path: Path):
        """Answers beside grades are a look: logged, counted, and the same look again for the same answers."""
        log = tmp_path / "looks.jsonl"
        for _ in range(2):
            ended = drgate("audit", copied.folder, "--predictions", table, "--looks", log)
            assert "Look 1 of" in ended.err, ended
        looks = [line for line in log.read_text().splitlines() if json.loads(line)["kind"] == "look"]
        assert len(looks) == 1
        assert "probability 0.01" in ended.out or "Unlikely labels" in ended.out

    def test_nothing_else_takes_a_look(self, drgate: Drgate, copied: Set, tmp_path: Path):
        """Without predictions no log is written, and --looks says so."""
        drgate("audit", copied.folder)
        assert not (Path.cwd() / "reports").exists()
        refused = drgate("audit", copied.folder, "--looks", tmp_path / "looks.jsonl")
        assert refused.code == 2
        assert "nothing else takes a look" in refused.err

    def test_grades_come_from_the_set_where_the_table_has_none(self, drgate: Drgate, copied: Set, table: Path):
        """A table of answers alone is judged by the test set's grades, also under published names."""
        rows = pd.read_csv(table).drop(columns="grade")
        rows["image"] = [copied.published(image) for image in rows["image"]]
        rows.to_csv(table, index=False)
        found = audited(drgate("audit", copied.folder, "--predictions", table, "--format", "json"))
        assert found.check("mislabelled").compared["images"] == len(rows)

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda rows: rows.assign(image="x" + rows["image"]), "has no image of"),
            (lambda rows: rows.assign(grade=(rows["grade"] + 1) % 5), "another grade than in"),
            (lambda rows: rows.assign(sha256="0" * 64), "was scored as another file"),
        ],
    )
    def test_a_table_of_something_else_is_refused(
        self, drgate: Drgate, copied: Set, table: Path, change: Any, words: str
    ):
        """Other images, other grades, other files: exit code 2, and no look is taken."""
        change(pd.read_csv(table)).to_csv(table, index=False)
        ended = drgate("audit", copied.folder, "--predictions", table)
        assert ended.code == 2
        assert words in ended.err
        assert not (Path.cwd() / "reports").exists()

    def test_a_look_that_cannot_be_logged_is_refused_before_photographs_are_read(
        self, drgate: Drgate, copied: Set, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        """A damaged log: hours of reading are not lost."""
        log = tmp_path / "looks.jsonl"
        log.write_text("{}\n")
        monkeypatch.setattr("drgate.audit.collect.photographs", lambda *_, **__: pytest.fail("photographs were read"))
        assert drgate("audit", copied.folder, "--predictions", table, "--looks", log).code == 2


class TestFolder:
    @pytest.fixture
    def leaky(self, copied: Set) -> Path:
        image = copied.folder / copied.test.iloc[0]["image"]
        shutil.copy(image, copied.add("images/copy.jpg"))
        return copied.write()

    def test_the_same_inputs_give_the_same_bytes(self, drgate: Drgate, leaky: Path, tmp_path: Path):
        """audit.json and audit.html twice, with other numbers of workers; the digest is of the file."""
        from drgate.files import digest_of

        for name, workers in (("a", 0), ("b", 2)):
            assert drgate("audit", leaky, "--out", tmp_path / name, "--workers", workers).code == 1
        for file in ("audit.json", "audit.html"):
            assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
        plain = json.loads((tmp_path / "a" / "audit.json").read_text())
        assert digest_of(plain) == "sha256:" + sha256_file(tmp_path / "a" / "audit.json")
        assert Audit.from_json(plain).digest == digest_of(plain)

    def test_only_published_names_are_in_what_may_be_published(self, drgate: Drgate, leaky: Path, tmp_path: Path):
        """No file name and no patient; names.csv and pictures.html are the caller's alone, and Git ignores them."""
        out = tmp_path / "out"
        assert drgate("audit", leaky, "--out", out, "--pictures").code == 1
        own = {row["own_image"] for row in csv.DictReader((out / "names.csv").read_text().splitlines())}
        table = pd.read_csv(leaky / "labels.csv", dtype=str)
        assert {name for names in own for name in names.split(" = ")} == set(table["image"])
        for file in ("audit.json", "audit.html"):
            text = (out / file).read_text()
            for name in (*table["image"].map(lambda image: Path(image).name), *table["patient"].unique()):
                assert name not in text, (file, name)
        for file in ("names.csv", "pictures.html"):
            assert stat.S_IMODE((out / file).stat().st_mode) == 0o600
            assert file in (out / ".gitignore").read_text().splitlines()

    def test_pairs_are_drawn_only_where_asked(self, drgate: Drgate, leaky: Path, tmp_path: Path):
        """Both photographs of a pair, beside their own names."""
        drgate("audit", leaky, "--out", tmp_path / "a")
        assert not (tmp_path / "a" / "pictures.html").exists()
        drgate("audit", leaky, "--out", tmp_path / "b", "--pictures")
        page = (tmp_path / "b" / "pictures.html").read_text()
        assert page.count('<img src="data:image/jpeg;base64,') >= 2
        assert "images/copy.jpg" in page
        refused = drgate("audit", leaky, "--pictures")
        assert refused.code == 2
        assert "--out" in refused.err

    def test_photographs_in_doubt_are_handed_to_readers_once(self, drgate: Drgate, copied: Set, tmp_path: Path):
        """Among as many others, under names that say nothing; a list that readers may work from is not replaced."""
        first = copied.test.iloc[0]
        grade = "0" if first["grade"] != "0" else "4"
        shutil.copy(copied.folder / first["image"], copied.add("images/copy.jpg", grade=grade, split="test"))
        out = tmp_path / "out"
        ended = drgate("audit", copied.write(), "--out", out, "--to-read")
        assert ended.code == 1
        shown = {path.name for path in (out / "to_read").iterdir()}
        assert f"{copied.published(first['image'])}.jpg" in shown
        assert len(shown) >= 2
        assert f"To read again: {len(shown)} photographs in {out / 'to_read'}" in " ".join(ended.err.split())
        assert all(re.fullmatch(r"[0-9a-f]{16}\.jpg", name) for name in shown)
        assert "to_read/" in (out / ".gitignore").read_text().splitlines()
        refused = drgate("audit", copied.folder, "--out", out, "--to-read")
        assert refused.code == 2
        assert "readers may work from it" in refused.err
        assert drgate("audit", copied.folder, "--out", out).code == 1
        assert (out / "to_read.csv").exists()

    def test_where_no_grade_is_in_doubt_there_is_nothing_to_read(self, drgate: Drgate, fundi: Path, tmp_path: Path):
        """It says so, and no empty folder is written."""
        ended = drgate("audit", fundi, "--out", tmp_path / "out", "--to-read")
        assert ended.code == 0
        assert "To read again: nothing" in ended.err
        assert not any("to_read" in path.name for path in (tmp_path / "out").iterdir())

    def test_a_folder_that_holds_something_else_is_left_alone(self, drgate: Drgate, leaky: Path, tmp_path: Path):
        """Before anything is read; an earlier audit is replaced, and lines of its .gitignore stay."""
        out = tmp_path / "out"
        out.mkdir()
        (out / "thesis.txt").write_text("mine")
        ended = drgate("audit", leaky, "--out", out)
        assert ended.code == 2
        assert "holds something else" in ended.err
        (out / "thesis.txt").unlink()
        (out / ".gitignore").write_text("mine.txt\n")
        for _ in range(2):
            assert drgate("audit", leaky, "--out", out).code == 1
        assert (out / ".gitignore").read_text() == "mine.txt\nnames.csv\n"

    @pytest.mark.parametrize("name", ["names.csv", "audit.json", ".gitignore"])
    def test_a_folder_where_a_file_is_to_be_written(self, drgate: Drgate, leaky: Path, tmp_path: Path, name: str):
        """Refused before anything is read, with what to do, and left alone."""
        (tmp_path / "out" / name).mkdir(parents=True)
        ended = drgate("audit", leaky, "--out", tmp_path / "out")
        assert ended.code == 2
        assert "give another folder with --out" in ended.err
        assert [path.name for path in (tmp_path / "out").iterdir()] == [name]

    def test_where_nothing_can_be_written(
        self, drgate: Drgate, leaky: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        """Refused before photographs are read and before a look is taken."""
        (tmp_path / "file").write_text("")
        monkeypatch.setattr("drgate.audit.collect.photographs", lambda *_, **__: pytest.fail("photographs were read"))
        monkeypatch.setattr("os.access", lambda at, mode: mode != os.W_OK or Path(at) != tmp_path / "closed")
        (tmp_path / "closed").mkdir()
        for out in (tmp_path / "file" / "out", tmp_path / "closed", tmp_path / "closed" / "out"):
            ended = drgate("audit", leaky, "--out", out)
            assert ended.code == 2
            assert "nothing can be written in" in ended.err

    def test_hostile_names_stay_text(self, drgate: Drgate, copied: Set, tmp_path: Path):
        """Of an image, a patient, a camera and the folder: escaped in both pages."""
        first = copied.test.iloc[0]
        name = f"images/{HOSTILE.replace('/', '')}.jpg"
        shutil.copy(copied.folder / first["image"], copied.add(name, patient=HOSTILE, camera=HOSTILE, source=HOSTILE))
        copied.write()
        folder = copied.folder.rename(tmp_path / HOSTILE.replace("/", ""))
        out = tmp_path / "out"
        assert drgate("audit", folder, "--out", out, "--pictures").code == 1
        for file in ("audit.html", "pictures.html"):
            text = (out / file).read_text()
            assert "<img src=x" not in text
            assert "<script>window.hacked" not in text
        assert "&lt;img src=x" in (out / "pictures.html").read_text()


class TestRefused:
    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["--split", "train"], "is no test set"),
            (["--split", "val"], ""),
            (["--checkpoint", "missing.pth"], "missing.pth"),
            (["--spec", "missing"], "missing"),
            (["--time", "2026-01-01T00:00:00Z"], "--predictions"),
        ],
    )
    def test_usage(self, drgate: Drgate, fundi: Path, arguments: list[str], words: str):
        """One sentence and exit code 2; another split is audited like the test split."""
        ended = drgate("audit", fundi, *arguments)
        assert (ended.code == 2) == bool(words)
        assert words in ended.err
        assert "Traceback" not in ended.err

    def test_training_data_that_is_all_test(self, drgate: Drgate, fundi: Path, copied: Set):
        """A TRAIN that has nothing to train on is a mistake, not a clean audit."""
        copied.table = copied.test
        ended = drgate("audit", fundi, copied.write())
        assert ended.code == 2
        assert "split test" in ended.err


def test_the_defects_of_a_real_set_are_both_named_and_nothing_else(drgate: Drgate, real_data: Path):
    """One eye under two grades and one file in two folders, by the caller's names; no leak, since there is no
    training."""
    ended = drgate("audit", real_data / "eyepacs-full")
    assert ended.code == 1
    assert ended.out.startswith("The evidence is not clean: label conflicts.")
    found = ended.out.partition("\nFound\n")[2].partition("\n\n")[0]
    lines = re.findall(r"^- .*(?:\n  .*)*", found, re.M)
    assert len(lines) == 2
    assert "3/17_right.jpeg = 4/16_right.jpeg: the same file, graded 3 and 4" in " ".join(lines[0].split())
    assert "1/17_right.jpeg and 3/17_right.jpeg" in lines[1]
