"""Synthetic photographs show what their grade says, are the same everywhere, and never meet their pre-training."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from drgate.demo import synthetic
from drgate.demo.synthetic import CAMERAS, EYES, Lesions, Photograph, draw_patient, icdr_grade, render, write_dataset
from drgate.errors import UsageError


def _photographs(patients: int, *, namespace: synthetic.Namespace = "demo", size: int = 96) -> list[Photograph]:
    drawn = (draw_patient(namespace, seed=11, index=i, worse_grade=i % 5) for i in range(patients))
    return [render(patient, eye, size=size) for patient in drawn for eye in EYES]


@pytest.fixture(scope="module")
def photographs() -> list[Photograph]:
    return _photographs(40)


@pytest.fixture(scope="module")
def proliferative() -> list[Photograph]:
    return [render(draw_patient("demo", seed=12, index=i, worse_grade=4), eye) for i in range(12) for eye in EYES]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("synthetic") / "set"
    seen: list[tuple[int, int]] = []
    write_dataset(
        out,
        seed=3,
        train_patients=[3, 2, 2, 2, 2],
        val_patients=[1] * 5,
        test_patients=[2] * 5,
        size=96,
        workers=1,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(i + 1, 26) for i in range(26)]
    return out


def _write_five(folder: Path, **other: Any) -> None:
    one_a_grade = dict.fromkeys(("train_patients", "val_patients", "test_patients"), [1] * 5)
    write_dataset(folder, **{"seed": 0, "size": 64, **one_a_grade, **other})


def _rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "labels.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


class TestGradingRule:
    """The wording of Wilkinson et al. 2003, table 1, case by case."""

    @pytest.mark.parametrize(
        ("lesions", "grade"),
        [
            (Lesions(), 0),
            (Lesions(microaneurysms=(0, 1, 0, 0)), 1),
            (Lesions(microaneurysms=(9, 9, 9, 9)), 1),
            (Lesions(haemorrhages=(0, 0, 1, 0)), 2),
            (Lesions(hard_exudates=(1, 0, 0, 0)), 2),
            (Lesions(cotton_wool_spots=(0, 0, 0, 1)), 2),
            (Lesions(haemorrhages=(20, 40, 40, 40)), 2),
            (Lesions(venous_beading=(0, 1, 0, 0)), 2),
            (Lesions(haemorrhages=(21, 21, 21, 21)), 3),
            (Lesions(venous_beading=(0, 1, 0, 1)), 3),
            (Lesions(irma=(0, 0, 1, 0)), 3),
            (Lesions(new_vessels_disc=1), 4),
            (Lesions(new_vessels_elsewhere=(0, 1, 0, 0)), 4),
            (Lesions(preretinal_haemorrhages=1), 4),
            (Lesions(vitreous_haemorrhage=1), 4),
            (Lesions(haemorrhages=(30, 30, 30, 30), irma=(1, 1, 1, 1), new_vessels_disc=1), 4),
        ],
    )
    def test_by_the_table(self, lesions: Lesions, grade: int):
        """4-2-1 means more than 20 in all four, two or more, one or more; proliferation outranks everything."""
        assert icdr_grade(lesions) == grade


class TestPhotograph:
    def test_grade_is_what_was_asked_for_and_what_the_lesions_say(self, photographs: list[Photograph]):
        """The drawn lesions, counted from their marks, give the grade that the patient was to have."""
        for index, photograph in enumerate(photographs):
            patient = draw_patient("demo", seed=11, index=index // 2, worse_grade=index // 2 % 5)
            counted = {kind: sum(m.kind == kind for m in photograph.marks) for kind in Lesions.__dataclass_fields__}
            # A beaded vein is marked in several places; what counts is the quadrant.
            counted["venous_beading"] = len({m.quadrant for m in photograph.marks if m.kind == "venous_beading"})
            assert counted == photograph.lesions.total
            assert photograph.grade == icdr_grade(photograph.lesions) == patient.grade(photograph.eye)

    def test_every_lesion_is_inside_the_frame(self, photographs: list[Photograph]):
        """A lesion that decides a grade is never outside the field of view or the cut frame."""
        visible = {camera.name: camera.visible for camera in CAMERAS}
        for photograph in photographs:
            for mark in photograph.marks:
                assert np.hypot(mark.x, mark.y) < 0.97
                assert abs(mark.y) < visible[photograph.camera]

    @pytest.mark.parametrize(
        ("kind", "sign"),
        [("microaneurysms", -1), ("haemorrhages", -1), ("preretinal_haemorrhages", -1), ("cotton_wool_spots", 1)],
    )
    def test_lesions_are_drawn_where_they_are_marked(self, proliferative: list[Photograph], kind: str, sign: int):
        """Blood is darker and cotton wool brighter, in green, than the ring of retina around it."""
        differences = []
        for photograph in proliferative:
            camera = next(camera for camera in CAMERAS if camera.name == photograph.camera)
            green = np.asarray(photograph.image)[..., 1].astype(float)
            rows, columns = np.indices(green.shape)
            x = (columns + 0.5 - green.shape[1] / 2) / (camera.radius * 224)
            y = (rows + 0.5 - green.shape[0] / 2) / (camera.radius * 224)
            for mark in [mark for mark in photograph.marks if mark.kind == kind][:3]:
                away = np.hypot(x - mark.x, y - mark.y)
                inner = green[away < max(0.5 * mark.radius, 0.012)].mean()
                ring = (away > 1.5 * mark.radius) & (away < 1.5 * mark.radius + 0.05) & (np.hypot(x, y) < 0.95)
                differences.append(sign * (inner - np.median(green[ring])))
        assert len(differences) >= 3
        assert np.mean(np.array(differences) > 3) > 0.9

    def test_optic_disc_is_nasal(self):
        """The brightest spot of a healthy right eye is on the right, of a left eye on the left."""
        for index in range(12):
            patient = draw_patient("demo", seed=5, index=index, worse_grade=0)
            for eye, right in (("R", True), ("L", False)):
                green = np.asarray(render(patient, eye, size=96).image.convert("L").reduce(4))
                assert (np.unravel_index(green.argmax(), green.shape)[1] > green.shape[1] / 2) == right

    def test_all_cameras_take_part(self, photographs: list[Photograph]):
        """Each look occurs; both eyes of a patient have the same one; the cut frame is wider than high."""
        assert {photograph.camera for photograph in photographs} == {camera.name for camera in CAMERAS}
        for right, left in zip(photographs[::2], photographs[1::2], strict=True):
            assert right.camera == left.camera
        heights = {photograph.camera: photograph.image.height for photograph in photographs}
        assert heights["round"] == 96
        assert heights["cropped"] < 96

    def test_the_eyes_of_a_patient_agree_mostly(self):
        """The worse eye has the grade asked for, the other one the same or up to two less."""
        grades = np.array([draw_patient("demo", seed=2, index=i, worse_grade=4).grades for i in range(600)])
        assert (grades.max(axis=1) == 4).all()
        lower = 4 - grades.min(axis=1)
        assert lower.max() == 2
        # Four standard errors around the published chances.
        for less, chance in enumerate(synthetic.OTHER_EYE):
            assert abs((lower == less).mean() - chance) < 4 * np.sqrt(chance * (1 - chance) / 600)

    @pytest.mark.parametrize("grade", [-1, 5])
    def test_other_grades_are_refused(self, grade: int):
        """The ICDR scale has five grades."""
        with pytest.raises(UsageError, match="0 to 4"):
            draw_patient("demo", seed=0, index=0, worse_grade=grade)


class TestDeterminism:
    def test_same_seed_same_pixels(self, photographs: list[Photograph]):
        """A photograph depends on namespace, seed, patient and eye, not on what was drawn before it."""
        alone = render(draw_patient("demo", seed=11, index=29, worse_grade=4), "L", size=96)
        assert alone.image.tobytes() == photographs[59].image.tobytes()
        assert alone.marks == photographs[59].marks

    def test_seed_patient_and_eye_matter(self):
        """Two seeds, two patients, two eyes: four different photographs."""
        which = ((0, 0, "R"), (1, 0, "R"), (0, 1, "R"), (0, 0, "L"))
        images = {
            render(draw_patient("demo", seed=seed, index=index, worse_grade=3), eye, size=96).image.tobytes()
            for seed, index, eye in which
        }
        assert len(images) == 4

    def test_number_of_workers_does_not_matter(self, folder: Path, tmp_path: Path):
        """The files are the same, byte for byte, whether one process writes them or two."""
        counts = {"train_patients": [3, 2, 2, 2, 2], "val_patients": [1] * 5, "test_patients": [2] * 5}
        write_dataset(tmp_path / "again", seed=3, size=96, workers=2, **counts)
        files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
        assert files == sorted(path.relative_to(tmp_path / "again") for path in (tmp_path / "again").rglob("*.*"))
        for file in files:
            assert (folder / file).read_bytes() == (tmp_path / "again" / file).read_bytes()


class TestNamespaces:
    def test_pretraining_never_meets_the_demonstration(self, photographs: list[Photograph]):
        """With the same seed, patient and grade, the two namespaces share no photograph."""
        demo = {hashlib.sha256(photograph.image.tobytes()).digest() for photograph in photographs}
        pretrain = {hashlib.sha256(p.image.tobytes()).digest() for p in _photographs(20, namespace="pretrain")}
        assert len(demo) == len(photographs)
        assert not demo & pretrain

    def test_names_cannot_run_together(self):
        """Each (namespace, seed, patient, part) seeds its own generator: 1/11 is not 11/1."""
        keys = [(n, s, i, part) for n in synthetic.NAMESPACES for s in (1, 11) for i in (1, 11, 111) for part in "RL"]
        assert len({float(synthetic._rng(*key).random()) for key in keys}) == len(keys)

    def test_others_are_refused(self):
        """There is no third namespace."""
        with pytest.raises(UsageError, match="demo, pretrain"):
            draw_patient("test", seed=0, index=0, worse_grade=0)  # type: ignore[arg-type]


class TestDataset:
    def test_labels(self, folder: Path):
        """Two rows a patient, the columns of a manifest, the worse eyes as many as asked for in each split."""
        rows = _rows(folder)
        assert list(rows[0]) == list(synthetic.COLUMNS)
        assert len(rows) == 52
        worse: dict[str, list[int]] = {"train": [], "val": [], "test": []}
        for right, left in zip(rows[::2], rows[1::2], strict=True):
            assert (right["eye"], left["eye"]) == ("R", "L")
            assert (right["patient"], right["split"]) == (left["patient"], left["split"])
            assert right["image"] == f"images/{right['patient']}_R.jpg"
            worse[right["split"]].append(max(int(right["grade"]), int(left["grade"])))
        assert worse == {
            "train": [0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4],
            "val": [*range(5)],
            "test": sorted([*range(5)] * 2),
        }

    def test_patients_are_in_one_split(self, folder: Path):
        """No patient is in two splits."""
        splits: dict[str, set[str]] = {}
        for row in _rows(folder):
            splits.setdefault(row["patient"], set()).add(row["split"])
        assert len(splits) == 26
        assert all(len(names) == 1 for names in splits.values())

    def test_images_are_small_jpegs_with_their_truth_beside_them(self, folder: Path):
        """Every row has its JPEG of the size asked for, and lesions that give its grade."""
        truth = json.loads((folder / "lesions.json").read_text(encoding="utf-8"))
        rows = _rows(folder)
        assert set(truth) == {row["image"] for row in rows}
        for row in rows:
            with Image.open(folder / row["image"]) as image:
                assert (image.format, image.mode, image.width) == ("JPEG", "RGB", 96)
            lesions = {k: tuple(v) if isinstance(v, list) else v for k, v in truth[row["image"]].items()}
            assert icdr_grade(Lesions(**lesions)) == int(row["grade"])

    def test_an_existing_folder_is_left_alone(self, tmp_path: Path):
        """Nothing is overwritten."""
        (tmp_path / "mine").mkdir()
        with pytest.raises(UsageError, match="exists already"):
            write_dataset(
                tmp_path / "mine", seed=0, train_patients=[1] * 5, val_patients=[1] * 5, test_patients=[1] * 5
            )
        assert list((tmp_path / "mine").iterdir()) == []

    @pytest.mark.parametrize("counts", [[1, 2, 3], [1, 1, 1, 1, -1]])
    def test_counts_are_five(self, tmp_path: Path, counts: list[int]):
        """One number of patients a grade."""
        with pytest.raises(UsageError, match="five numbers"):
            _write_five(tmp_path / "set", train_patients=counts)

    def test_the_folder_appears_whole_or_not_at_all(self, tmp_path: Path):
        """Interrupted half-way, nothing is left."""

        def interrupt(done: int, total: int) -> None:
            if done == 3:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            _write_five(tmp_path / "set", workers=1, progress=interrupt)
        assert list(tmp_path.iterdir()) == []


class TestEmbeddedBase:
    folder = Path(synthetic.__file__).parents[1] / "vision" / "embedded_base"

    def test_is_small(self):
        """It travels with the package."""
        assert (self.folder / "model.safetensors").stat().st_size <= 4 * 2**20

    def test_loads_clean(self):
        """Every tensor that a SigLIP vision tower has is there, and no other."""
        transformers = pytest.importorskip("transformers")
        model, report = transformers.SiglipVisionModel.from_pretrained(self.folder, output_loading_info=True)
        assert not report["missing_keys"]
        assert not report["unexpected_keys"]
        assert not report["mismatched_keys"]
        assert sum(parameter.numel() for parameter in model.parameters()) < 10**6

    def test_says_where_it_comes_from(self):
        """Seed, number of images and the warning stand in the file itself."""
        safetensors = pytest.importorskip("safetensors")
        with safetensors.safe_open(self.folder / "model.safetensors", framework="np") as file:
            metadata = file.metadata()
        assert {"seed", "images", "passes", "preprocessing", "made_by"} <= metadata.keys()
        assert "not for clinical use" in metadata["use"]
