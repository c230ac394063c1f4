"""The audit of reference grades: one picture under two grades, eyes far apart, likely wrong grades, readers."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageEnhance, ImageOps
from sklearn.metrics import cohen_kappa_score

from drgate.audit import fellow_eyes, label_conflicts, mislabelled, readers
from drgate.audit.evidence import Evidence, Photographs, photographs
from drgate.audit.register import likeness
from drgate.demo.synthetic import draw_patient, render
from drgate.evaluation import plain_of
from drgate.manifest import load_manifest
from drgate.predictions import PROBABILITIES, load_predictions, make_predictions
from drgate.stats import agreement

CHANGES = {
    "mirrored": ImageOps.mirror,
    "brightened": lambda image: ImageEnhance.Brightness(image).enhance(1.2),
    "smaller": lambda image: image.resize((260, 260)),
}


@pytest.fixture(scope="module")
def eyes(tmp_path_factory):
    """Both eyes of three patients, as files `P_left.jpeg` and `P_right.jpeg`."""
    folder = tmp_path_factory.mktemp("eyes")
    for number in range(3):
        patient = draw_patient("demo", seed=0, index=number, worse_grade=2)
        for eye, name in (("L", "left"), ("R", "right")):
            render(patient, eye, size=320).image.save(folder / f"{number}_{name}.jpeg", quality=92)
    return folder


@pytest.fixture
def set_of(eyes, tmp_path):
    """The photographs of a set whose rows are `(file of eyes, name, grade)` and further columns."""

    def make(rows, folder="set", change=None, columns=(), **options):
        root = tmp_path / folder
        for source, name, *_ in rows:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            if change is None or name == source:
                shutil.copy(eyes / source, root / name)
            else:
                change(Image.open(eyes / source).convert("RGB")).save(root / name, quality=85)
        table = pd.DataFrame([row[1:] for row in rows], columns=["image", "grade", *columns])
        table.to_csv(root / "labels.csv", index=False)
        return photographs(load_manifest(root), workers=1, **options)

    return make


SOME = [(f"{number}_{side}.jpeg", f"{number}_{side}.jpeg", 1) for number in range(3) for side in ("left", "right")]


class TestConflicts:
    def test_equal_files_under_two_grades(self, set_of):
        """Found, by published names alone; copies under one grade are no conflict."""
        shown = set_of([*SOME, ("0_left.jpeg", "secret-name.jpeg", 3), ("1_left.jpeg", "other.jpeg", 1)])
        check = label_conflicts.check(Evidence(shown))
        assert (check.status, check.count, dict(check.compared)) == ("found", 1, {"test": 8})
        (one,) = check.findings
        assert one.test == one.other == shown.contents[0][:16]
        assert one.what == "the same file, graded 1 and 3"
        assert "secret" not in json.dumps(plain_of(check))

    def test_a_copy_filed_under_another_patient_is_named_so(self, set_of):
        rows = [("0_left.jpeg", "a.jpeg", 1, "p"), ("0_left.jpeg", "b.jpeg", 2, "q")]
        check = label_conflicts.check(Evidence(set_of(rows, columns=["patient"])))
        assert [one.what for one in check.findings] == ["the same file, graded 1 and 2, of 2 patients"]

    @pytest.mark.parametrize("change", CHANGES)
    def test_a_changed_copy_under_another_grade(self, set_of, change):
        """Found by pixels, with distance, orientation and likeness; under the same grade it is no conflict."""
        for grade in (4, 1):
            shown = set_of([*SOME, ("2_right.jpeg", "copy.jpeg", grade)], f"set-{grade}", CHANGES[change])
            check = label_conflicts.check(Evidence(shown))
            assert check.count == (grade == 4)
            assert check.status == ("found" if grade == 4 else "clean")
            for one in check.findings:
                assert {one.test, one.other} == {shown.names[list(shown.table["image"]).index(f)] for f in FILES}
                assert one.orientation == ("mirror" if change == "mirrored" else "same")
                assert one.distance <= label_conflicts.WITHIN
                assert one.value >= 0.6
                assert one.what.startswith("the same eye by its pixels, graded ")

    def test_a_near_hash_alone_accuses_nobody(self, set_of, monkeypatch):
        """Other eyes with other grades do not register, however near their hashes are taken to be."""
        monkeypatch.setattr(label_conflicts, "WITHIN", 256)
        compared = []

        def counted(one, other):
            compared.append(likeness(one, other))
            return compared[-1]

        monkeypatch.setattr(label_conflicts, "likeness", counted)
        shown = set_of([(source, name, i % 5) for i, (source, name, _) in enumerate(SOME)])
        assert label_conflicts.check(Evidence(shown)).status == "clean"
        assert len(compared) == 3 + 3 + 3 + 2 + 1  # at most the three nearest of each, each pair once

    def test_between_test_and_training(self, set_of):
        """The test photograph and the training photograph are named apart; two of training are compared by bytes."""
        train = [("0_left.jpeg", "x.jpeg", 2), ("1_left.jpeg", "y.jpeg", 1), ("1_left.jpeg", "z.jpeg", 0)]
        test, training = set_of(SOME[:2]), set_of(train, "train")
        check = label_conflicts.check(Evidence(test, training))
        assert dict(check.compared) == {"test": 2, "train": 3}
        found = {(one.test, one.train, one.other) for one in check.findings}
        assert found == {(test.names[0], training.names[0], None), (None, training.names[1], training.names[1])}

    def test_photographs_that_are_declared_one_eye_are_suspected(self, set_of):
        """An eye that was photographed at two visits may have two grades; filed as the other eye, it may not."""
        rows = [("0_left.jpeg", "0_left.jpeg", 1, "p", "L"), ("0_left.jpeg", "later.jpeg", 2, "p", "L")]
        change = CHANGES["brightened"]
        check = label_conflicts.check(Evidence(set_of(rows, "visits", change, ["patient", "eye"])))
        assert (check.status, check.count) == ("suspected", 1)
        assert "two visits" in check.reason
        rows[1] = (*rows[1][:4], "R")
        check = label_conflicts.check(Evidence(set_of(rows, "other", change, ["patient", "eye"])))
        assert (check.status, check.count, check.reason) == ("found", 1, "")

    def test_one_eyepacs_name_in_two_folders_of_grades(self, set_of, tmp_path):
        """Such a name is one eye. A name of a camera that counts from 1 in each folder is not."""
        for name in ("17_right.jpeg", "IMG_1.jpeg"):
            for grade, source in ((1, "0_left.jpeg"), (3, "1_left.jpeg")):
                set_of([(source, f"{name}/{grade}/{name}", 0)], "at")
            for made in (tmp_path / "at").glob("*.csv"):
                made.unlink()
        camera, eyepacs = (
            label_conflicts.check(Evidence(photographs(load_manifest(tmp_path / "at" / name), workers=1)))
            for name in ("IMG_1.jpeg", "17_right.jpeg")
        )
        assert camera.status == "clean"
        assert [one.what for one in eyepacs.findings] == ["one eye by its name, graded 1 and 3"]

    def test_grades_beside_a_reference_that_says_only_whether_to_refer(self, set_of):
        """Compared by whether they refer: grade 3 does, grade 1 does not, unless there is oedema."""
        rows = [("0_left.jpeg", "a.jpeg", 3, 0), ("1_left.jpeg", "b.jpeg", 1, 0), ("2_left.jpeg", "c.jpeg", 1, 1)]
        test = set_of(rows, columns=["dme"])
        rows = [(source, name, 1) for source, name, *_ in rows]
        train = set_of(rows, "train")
        table = train.table.assign(referable=train.table["grade"], grade=pd.NA)
        refers = Photographs(table.astype({"grade": "Int8"}), train.paths, train.contents, train.seen)
        check = label_conflicts.check(Evidence(test, refers))
        assert [(one.test, one.what) for one in check.findings] == [
            (test.names[1], "the same file, referable and not referable")
        ]

    def test_what_was_not_read_is_not_clean(self, set_of):
        """Not assessed without pictures, without grades, and where a graded photograph cannot be read."""
        reasons = []
        shown = set_of(SOME[:2])
        sealed = shown.table.assign(grade=pd.array([None, None], "Int8"))
        for test in (
            set_of(SOME[:2], files=False),
            Photographs(sealed, shown.paths, shown.contents, shown.seen),
            Photographs(shown.table, shown.paths, shown.contents, (shown.seen[0], "no photograph")),
            Photographs(shown.table, shown.paths, ("", ""), (None, None)),
        ):
            check = label_conflicts.check(Evidence(test))
            assert check.status == "not_assessed"
            reasons.append(check.reason)
        assert reasons == [
            "2 of 2 graded photographs were not read, or cannot be.",
            "No image of the test set has a reference grade.",
            "1 of 2 graded photographs were not read, or cannot be.",
            "No photographs are at hand; give the folder of the test set.",
        ]

    def test_the_planted_defects_and_nothing_else(self, real_data):
        """eyepacs-full: one picture under grades 3 and 4, one file name in the folders of grades 1 and 3."""
        shown = photographs(load_manifest(real_data / "eyepacs-full"), workers=1)
        own = dict(zip(shown.table["image"], shown.names, strict=True))
        check = label_conflicts.check(Evidence(shown))
        assert [(one.test, one.other, one.what) for one in check.findings] == [
            (own["3/17_right.jpeg"], own["4/16_right.jpeg"], "the same file, graded 3 and 4, of 2 patients"),
            (own["1/17_right.jpeg"], own["3/17_right.jpeg"], "one eye by its name, graded 1 and 3"),
        ]

    def test_an_eye_that_was_filed_as_both_eyes(self, real_data, tmp_path):
        """In eyepacs-256 the left and the right eye of one patient are two photographs of one eye, graded 0 and 2."""
        labels = pd.read_csv(real_data / "eyepacs-256" / "labels.csv")
        (tmp_path / "images").symlink_to(real_data / "eyepacs-256" / "images")
        labels[labels["patient"].between(10390, 10400)].to_csv(tmp_path / "labels.csv", index=False)
        shown = photographs(load_manifest(tmp_path), workers=1)
        own = dict(zip(shown.names, shown.table["image"], strict=True))
        check = label_conflicts.check(Evidence(shown))
        (one,) = check.findings
        assert one.what == "the same eye by its pixels, graded 0 and 2"
        patients = [own[name].partition("_")[0] for name in (one.test, one.other)]
        assert patients[0] == patients[1]


FILES = ("2_right.jpeg", "copy.jpeg")


def rows_of(*rows, columns=("patient", "eye", "grade"), **more):
    """Photographs of a table alone."""
    table = pd.DataFrame(rows, columns=columns).assign(image=[f"{i:03}.png" for i in range(len(rows))], **more)
    table["grade"] = pd.array(table["grade"], "Int8")
    for column in ("patient", "eye"):
        table[column] = pd.array(table[column] if column in table.columns else [None] * len(table), "str")
    return Photographs(table, (), ("",) * len(table), (None,) * len(table))


class TestFellowEyes:
    def test_eyes_three_grades_apart_are_shown_the_farthest_first(self):
        """Of several photographs of an eye the farthest count; a patient with one eye does not."""
        check = fellow_eyes.check(
            Evidence(
                rows_of(
                    *[("a", "L", 0), ("a", "R", 3), ("b", "L", 4), ("b", "L", 2), ("b", "R", 0), ("c", "L", 0)],
                    *[("d", "L", 1), ("d", "R", 3), ("e", "L", 4), ("e", None, 0), ("f", "R", 4), ("f", "L", None)],
                )
            )
        )
        assert (check.status, check.count, dict(check.compared)) == ("suspected", 2, {"patients": 3})
        assert [(one.test, one.other, one.what) for one in check.findings] == [
            ("row-5", "row-3", "one eye graded 0, the other 4"),
            ("row-1", "row-2", "one eye graded 0, the other 3"),
        ]
        assert check.numbers["share"] == pytest.approx(2 / 3)

    def test_near_ones_are_clean_and_unknown_ones_are_not_assessed(self):
        assert fellow_eyes.check(Evidence(rows_of(("a", "L", 0), ("a", "R", 2)))).status == "clean"
        for unknown in (rows_of((None, "L", 0), (None, "R", 4)), rows_of(("a", None, 0), ("a", None, 4))):
            assert fellow_eyes.check(Evidence(unknown)).status == "not_assessed"

    def test_the_expected_share_is_that_of_natural_photographs(self, real_data):
        """Recounted from the labels of eyepacs-256."""
        labels = pd.read_csv(real_data / "eyepacs-256" / "labels.csv")
        grades = labels.pivot_table(index="patient", columns="eye", values="grade").dropna()
        share = ((grades["L"] - grades["R"]).abs() >= fellow_eyes.FAR).mean()
        assert pytest.approx(share, abs=5e-5) == fellow_eyes.EXPECTED


def graded(grades, probabilities, **more):
    """Predictions of photographs with these grades."""
    table = pd.DataFrame(probabilities, columns=list(PROBABILITIES)).assign(grade=grades, **more)
    table["predicted"] = table[list(PROBABILITIES)].to_numpy().argmax(axis=1)
    return make_predictions(table.assign(image=[f"{i:03}.png" for i in range(len(table))]), "t", {})


def evidence_with(predictions):
    return Evidence(rows_of(*[(None, None, 0)] * len(predictions)), predictions=predictions)


class TestMislabelled:
    def test_the_least_likely_grade_comes_first(self):
        """Without patients: the model's probability of the reference grade, below .05, in ascending order."""
        p = [[0.9, 0.04, 0.03, 0.02, 0.01], [0.9, 0.04, 0.03, 0.02, 0.01], [0.1, 0.8, 0.06, 0.02, 0.02]]
        check = mislabelled.check(evidence_with(graded([4, 1, 0], p)))
        assert check.status == "suspected"
        assert [(one.test, one.value, one.what) for one in check.findings] == [
            ("row-1", 0.01, "graded 4, most likely 0"),
            ("row-2", 0.04, "graded 1, most likely 0"),
        ]
        assert mislabelled.check(evidence_with(graded([0, 0, 1], p))).status == "clean"

    def test_the_other_eye_counts_as_counted_by_hand(self):
        """Each probability times the share of eyes of that grade whose other eye is graded so, one added to each."""
        random = np.random.default_rng(3)
        p = random.dirichlet([0.4] * 5, 60)
        grades = random.integers(0, 5, 60)
        patients, sides = [f"p{i // 2}" for i in range(60)], ["LR"[i % 2] for i in range(60)]
        sides[59] = None  # one eye that is not known has no other eye
        predictions = graded(grades, p, patient=patients, eye=sides)
        p = predictions.probabilities()
        other = {i: i ^ 1 for i in range(58)}
        expected = {}
        for i in range(60):
            shares = []
            for grade in range(5):
                seen = [grades[other[j]] for j in other if grades[j] == grade]
                weight = (1 + seen.count(grades[other[i]])) / (5 + len(seen)) if i in other else 1
                shares.append(p[i, grade] * weight)
            if shares[grades[i]] / sum(shares) < mislabelled.BELOW:
                expected[f"row-{i + 1:02}"] = shares[grades[i]] / sum(shares)
        check = mislabelled.check(Evidence(rows_of(), predictions=predictions))
        assert len(check.findings) == len(expected) > 5
        assert {one.test: one.value for one in check.findings} == pytest.approx(expected, abs=1e-6)
        assert [one.value for one in check.findings] == sorted(one.value for one in check.findings)

    def test_images_without_grade_or_output_are_left_out(self):
        p = [[0.9, 0.1, 0, 0, 0], [np.nan] * 5, [0.9, 0.05, 0.03, 0.01, 0.01]]
        table = pd.DataFrame(p, columns=list(PROBABILITIES)).assign(
            grade=[None, 4, 4], gradable=[False, True, True], image=list("abc"), predicted=[0, None, 0]
        )
        check = mislabelled.check(evidence_with(make_predictions(table, "t", {})))
        assert dict(check.compared) == {"images": 1, "left_out": 2}
        assert check.count == 1

    def test_what_it_needs_is_named(self):
        """Not assessed without predictions, probabilities, a pair of both, or with answers that only refer."""
        images = {"image": ["a", "b"]}
        one_hot = pd.DataFrame(np.eye(5)[:2], columns=list(PROBABILITIES))
        tables = [
            (pd.DataFrame({**images, "grade": [0, 4], "predicted": [0, 1]}), "No image has both"),
            (pd.DataFrame({**images, "grade": [0, 4], "p_referable": [0.2, 0.9]}), "only whether to refer"),
            (pd.DataFrame({**images, "referable": [0, 1], "predicted": [0, 1]}), "only whether to refer"),
            (one_hot.assign(grade=[0, 4], **images), "one-hot"),
            (pd.DataFrame({**images, "grade": [0, 4], "severity": [0.2, 3.1]}), "severity"),
        ]
        for table, reason in tables:
            check = mislabelled.check(evidence_with(make_predictions(table, "t", {})))
            assert (check.status, reason in check.reason) == ("not_assessed", True), (table, check)
        check = mislabelled.check(Evidence(rows_of(("a", "L", 0))))
        assert (check.status, "--predictions" in check.reason) == ("not_assessed", True)

    def test_flipped_labels_come_first(self, real_data):
        """5 % of 754 labels set to another grade: of the first 38 and 100 at least .37 and .24 are of these (chance
        .05), with the predictions of a weak model, over 20 draws."""
        table = load_predictions(real_data / "predictions" / "eyepacs-1024-weak-model.csv").table
        kept = []
        for seed in range(20):
            random = np.random.default_rng(seed)
            grades, flipped = table["grade"].to_numpy(dtype=int).copy(), random.choice(len(table), 38, replace=False)
            grades[flipped] = (grades[flipped] + random.integers(1, 5, 38)) % 5
            ranked = ranking(make_predictions(table.assign(grade=grades), "t", {}), len(table))
            kept.append([np.isin(ranked[:most], flipped).mean() for most in (38, 100)])
        first, more = np.mean(kept, axis=0)
        assert first >= 0.42
        assert more >= 0.26


def ranking(predictions, n):
    """All rows in the order of suspicion: a test may look beyond those that are accused."""
    graded = predictions.table["grade"].to_numpy(dtype=int)
    likely = mislabelled.likely_grades(predictions, np.arange(n), graded)
    return np.argsort(likely[np.arange(n), graded], kind="stable")


class TestReaders:
    def table(self, n=200, patients=True, **columns):
        """Both eyes of patients; each reader is the truth with errors of one grade."""
        random = np.random.default_rng(5)
        truth = random.choice(5, n, p=[0.5, 0.1, 0.25, 0.1, 0.05])
        made = {
            f"reader_{k}": np.clip(truth + random.choice([-1, 0, 1], n, p=[wrong, 1 - 2 * wrong, wrong]), 0, 4)
            for k, wrong in ((1, 0.05), (2, 0.1), (3, 0.15), (4, 0.1))
        }
        made |= columns
        made = {name: pd.array(column, "Int8") for name, column in made.items() if column is not None}
        rows = [(f"p{i // 2}" if patients else None, "LR"[i % 2], int(grade)) for i, grade in enumerate(truth)]
        return rows_of(*rows, **made)

    def test_each_pair_and_each_against_the_others(self):
        """Quadratic kappa as scikit-learn has it, on the images that both graded, with an interval around it."""
        test = self.table()
        test.table.loc[:49, "reader_3"] = pd.NA
        check = readers.check(Evidence(test))
        assert (check.status, dict(check.compared)) == ("clean", {"readers": 4, "images": 200})
        found = {one.what: one for one in check.findings}
        assert len(found) == check.count == 10
        for one, other in (("reader_1", "reader_2"), ("reader_3", "reader_4")):
            both = test.table[[one, other]].dropna().astype(int)
            expected = cohen_kappa_score(both[one], both[other], weights="quadratic", labels=range(5))
            kappa = found[f"{one} and {other}"]
            assert kappa.value == pytest.approx(expected, abs=1e-4)
            assert kappa.low < kappa.value < kappa.high
            each = [
                np.histogram2d(rows[one], rows[other], bins=5, range=[(0, 5), (0, 5)])[0]
                for _, rows in both.groupby(test.table["patient"])
            ]
            limits = agreement.limits(np.stack(each), np.ones(len(each)), "quadratic", level=0.95)
            assert (kappa.low, kappa.high) == pytest.approx(limits, abs=1e-4)
        rest = test.table.loc[:, ["reader_1", "reader_2", "reader_4"]].astype(int).median(axis=1).astype(int)
        theirs = test.table.loc[50:, "reader_3"].astype(int)
        expected = cohen_kappa_score(theirs, rest[50:], weights="quadratic", labels=range(5))
        assert found["reader_3 and the median of the others"].value == pytest.approx(expected, abs=1e-4)

    def test_a_reader_who_guesses_is_suspected(self):
        check = readers.check(Evidence(self.table(reader_3=np.random.default_rng(6).integers(0, 5, 200))))
        assert check.status == "suspected"
        assert check.reason == "4 of 10 agreements are shown to be below 0.6."

    def test_a_reader_who_copied_is_suspected(self):
        """Two readers with the same grade for every image are one reader."""
        test = self.table()
        test.table["reader_2"] = test.table["reader_1"]
        check = readers.check(Evidence(test))
        assert (check.status, check.reason) == ("suspected", "1 pairs of readers gave the same grade to every image.")

    def test_without_patients_there_are_no_intervals(self):
        """Images of one patient are alike, so an interval of images would be too narrow."""
        check = readers.check(Evidence(self.table(patients=False)))
        assert all(one.low is None and one.high is None for one in check.findings)
        assert check.reason == "The patients are not known, so there are no intervals."

    def test_what_cannot_be_compared_is_not_assessed(self):
        """One reader, none, too many, or two who share no image."""
        one = dict.fromkeys(("reader_2", "reader_3", "reader_4"))
        more = {f"reader_{k}": [0] * 200 for k in range(5, 25)}
        apart = {**one, "reader_1": [0, 1] * 50 + [None] * 100, "reader_2": [None] * 100 + [0, 1] * 50}
        for columns in (one, dict.fromkeys([*one, "reader_1"]), more, apart):
            assert readers.check(Evidence(self.table(**columns))).status == "not_assessed"
        assert readers.check(Evidence(rows_of(("a", "L", 0)))).status == "not_assessed"

    def test_readers_may_be_beside_the_grades_of_the_predictions(self):
        """Where the readers' columns come with --grades, they are those of the predictions."""
        table = self.table().table
        given = make_predictions(table.assign(predicted=table["grade"]), "t", {})
        bare = rows_of(*[(None, None, 0)] * 200)
        assert readers.check(Evidence(bare, predictions=given)) == readers.check(Evidence(self.table()))
