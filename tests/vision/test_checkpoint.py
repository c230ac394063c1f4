"""The single-file checkpoint, its fingerprint, and the graders that read models."""

from __future__ import annotations

import hashlib
import hmac
import json
import pickle
import resource
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from drgate.errors import CheckpointError
from drgate.evaluation import Subject
from drgate.manifest import load_manifest
from drgate.patients import PatientKey
from drgate.preprocessing import FUNDUS_SQUARE, parse_preprocessing
from drgate.scale import GRADES
from drgate.score import CPU_BATCH, score
from drgate.vision.base import Base, resolve_base
from drgate.vision.checkpoint import load_checkpoint, save_checkpoint
from drgate.vision.fingerprint import Fingerprint, image_hash
from drgate.vision.grader import Exportable
from drgate.vision.graders import load_grader
from tests.support import tiny


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny.tiny_base(tmp_path_factory.mktemp("base") / "tower")


@pytest.fixture(params=[True, False], ids=["lora", "whole tower"])
def lora(request):
    return request.param


def batch(count: int = 4) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (count, 3, tiny.SIZE, tiny.SIZE)).astype(np.float32)


def rewritten(path, **changes):
    """The checkpoint file with parts of its payload replaced."""
    payload = torch.load(path, weights_only=True)
    payload.update(changes)
    torch.save(payload, path)
    return path


class TestRoundTrip:
    def test_the_model_comes_back(self, base, lora, tmp_path):
        """Built from its file, the network gives bit for bit the logits that it gave before."""
        model = tiny.random_model(base, lora=lora)
        checkpoint = tiny.checkpoint_of(model, base, lora=lora)
        save_checkpoint(tmp_path / "m.pth", checkpoint)
        loaded = load_checkpoint(tmp_path / "m.pth")
        with torch.inference_mode():
            expected = model(torch.from_numpy(batch()))
            assert torch.equal(loaded.build()(torch.from_numpy(batch())), expected)
        assert loaded.tensor_digest == checkpoint.tensor_digest
        for name in ("base", "architecture", "lora", "dropout", "preprocessing", "training_config", "epoch", "record"):
            assert getattr(loaded, name) == getattr(checkpoint, name), name
        assert list(tmp_path.iterdir()) == [tmp_path / "m.pth"], "no temporary file is left"

    def test_the_file_is_plain(self, base, tmp_path):
        """`torch.load(weights_only=True)` reads all of it; there is nothing in it but tensors and plain values."""
        save_checkpoint(tmp_path / "m.pth", tiny.checkpoint_of(tiny.random_model(base), base))
        payload = torch.load(tmp_path / "m.pth", weights_only=True)
        assert payload["format"] == "drgate-checkpoint"
        assert payload["class_names"] == list(GRADES)
        assert payload["lora"]["exclude_modules"] == r".*head\..*"
        assert payload["base"]["digest"] == base.digest

        def plain(value):
            if isinstance(value, dict):
                return all(isinstance(key, str) and plain(item) for key, item in value.items())
            if isinstance(value, list):
                return all(map(plain, value))
            return value is None or type(value) in (str, int, float, bool, torch.Tensor)

        assert plain(payload)

    def test_the_base_may_have_moved(self, base, tmp_path):
        """Where the folder is gone the sentence asks for --base; the same weights elsewhere do."""
        here = tmp_path / "here"
        shutil.copytree(base.folder, here)
        model = tiny.random_model(base)
        save_checkpoint(tmp_path / "m.pth", tiny.checkpoint_of(model, resolve_base(str(here))))
        here.rename(tmp_path / "there")
        with pytest.raises(CheckpointError, match="--base"):
            load_grader(tmp_path / "m.pth")
        grader = load_grader(tmp_path / "m.pth", base=str(tmp_path / "there"))
        np.testing.assert_allclose(grader.outputs(batch()), model(torch.from_numpy(batch())).detach(), atol=1e-6)

    def test_another_base_is_refused(self, base, tmp_path):
        """Adapters on other weights would grade, and wrongly."""
        save_checkpoint(tmp_path / "m.pth", tiny.checkpoint_of(tiny.random_model(base), base))
        other = tiny.write_base(tmp_path / "other", seed=1)
        with pytest.raises(CheckpointError, match="not the one that these adapters were trained on"):
            load_grader(tmp_path / "m.pth", base=str(other))


class TestTensorDigest:
    def test_stays_when_the_record_is_completed(self, base):
        """The record, the epoch and the fingerprint are about the model; they are not the model."""
        checkpoint = tiny.checkpoint_of(tiny.random_model(base), base)
        completed = replace(checkpoint, record={"status": "finished"}, epoch=9, fingerprint=None)
        assert completed.tensor_digest == checkpoint.tensor_digest

    def test_sees_whatever_changes_the_logits(self, base):
        """A weight, the adapters' scale, the preprocessing, the base: each makes another model."""
        model = tiny.random_model(base)
        checkpoint = tiny.checkpoint_of(model, base)
        head = {name: tensor.clone() for name, tensor in checkpoint.head.items()}
        head["classifier.8.bias"][0] += 1e-6
        assert checkpoint.lora is not None
        others = [
            replace(checkpoint, head=head),
            replace(checkpoint, lora=replace(checkpoint.lora, alpha=9.0)),
            replace(checkpoint, preprocessing=parse_preprocessing(f"{FUNDUS_SQUARE}@{56}")),
            replace(checkpoint, base=replace(checkpoint.base, digest="sha256:0")),
        ]
        assert len({checkpoint.tensor_digest, *(other.tensor_digest for other in others)}) == 5


class TestBrokenFiles:
    @pytest.fixture
    def path(self, base, tmp_path):
        save_checkpoint(tmp_path / "m.pth", tiny.checkpoint_of(tiny.random_model(base), base))
        return tmp_path / "m.pth"

    def test_missing(self, tmp_path):
        """No such file."""
        with pytest.raises(CheckpointError, match="does not exist"):
            load_checkpoint(tmp_path / "none.pth")

    @pytest.mark.parametrize("share", [0.001, 0.3, 0.999])
    def test_truncated(self, path, share):
        """A copy that stopped half-way is named as such."""
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
        with pytest.raises(CheckpointError, match="truncated"):
            load_checkpoint(path)

    def test_one_flipped_byte_in_a_weight(self, path):
        """Damage that leaves the archive readable is still seen."""
        data = bytearray(path.read_bytes())
        weight = torch.load(path, weights_only=True)["head"]["classifier.0.weight"].numpy().tobytes()
        position = bytes(data).find(weight[:64])
        data[position + 1] ^= 1
        path.write_bytes(bytes(data))
        with pytest.raises(CheckpointError, match="damaged"):
            load_checkpoint(path)

    @pytest.mark.parametrize("wrap", [False, True], ids=["bare pickle", "inside torch.save"])
    def test_code_is_never_run(self, tmp_path, wrap):
        """A pickle that calls a function when read is refused, and the function is not called."""
        marker = tmp_path / "ran"

        class Evil:
            def __reduce__(self):
                return (type(marker).touch, (marker,))

        path = tmp_path / "evil.pth"
        if wrap:
            torch.save({"format": "drgate-checkpoint", "evil": Evil()}, path)
        else:
            path.write_bytes(pickle.dumps(Evil()))
        with pytest.raises(CheckpointError, match=r"(could|can) run code"):
            load_checkpoint(path)
        assert not marker.exists()

    def test_a_git_lfs_pointer(self, tmp_path):
        """A repository cloned without LFS holds a pointer; the sentence says which command fetches the model."""
        pointer = tmp_path / "m.pth"
        pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n")
        with pytest.raises(CheckpointError, match="git lfs pull"):
            load_checkpoint(pointer)

    def test_somebody_elses_file(self, tmp_path):
        """A state dict without our description, and the older layout, are named for what they are."""
        torch.save({"weight": torch.zeros(2)}, tmp_path / "foreign.pth")
        with pytest.raises(CheckpointError, match="not a drgate checkpoint"):
            load_checkpoint(tmp_path / "foreign.pth")
        torch.save({"model_state_dict": {}, "epoch": 1}, tmp_path / "older.pth")
        with pytest.raises(CheckpointError, match="older training layout"):
            load_checkpoint(tmp_path / "older.pth")

    def test_four_classes(self, path):
        """A head of four grades, and four class names, are refused with the number that was found."""
        head = torch.load(path, weights_only=True)["head"]
        head["classifier.8.weight"] = head["classifier.8.weight"][:4].clone()
        head["classifier.8.bias"] = head["classifier.8.bias"][:4].clone()
        with pytest.raises(CheckpointError, match="it grades 4 classes"):
            load_checkpoint(rewritten(path, head=head))
        with pytest.raises(CheckpointError, match="grades 4 classes"):
            load_checkpoint(rewritten(path, class_names=list(GRADES[:4])))

    def test_what_does_not_fit(self, path):
        """Missing, unknown, misshapen, integer and non-finite tensors; a newer format; unknown preprocessing."""
        payload = torch.load(path, weights_only=True)
        name = next(iter(payload["tower"]))
        tower = payload["tower"]
        nan = {**tower, name: torch.full_like(tower[name], float("nan"))}
        broken = [
            ({"tower": {key: value for key, value in tower.items() if key != name}}, "lacks the tensors"),
            ({"tower": {**tower, "encoder.extra": torch.zeros(1)}}, "do not belong to this model"),
            ({"tower": {**tower, name: torch.zeros(1, 1)}}, "shape"),
            ({"tower": {**tower, name: tower[name].int()}}, "floating-point"),
            ({"tower": {**tower, name: torch.zeros(1, 1).expand(tower[name].shape)}}, "plain tensor"),
            ({"tower": nan}, "NaN"),
            ({"format_version": 2}, "format 2"),
            ({"preprocessing": tiny.recipe(crop="retina-9")}, "retina-9"),
            ({"preprocessing": {**payload["preprocessing"], "gamma": 2}}, "'gamma' is not a key"),
            (
                {"preprocessing": parse_preprocessing("siglip@56").content()},
                "56 pixels, but the network takes 28",
            ),
            ({"preprocessing": {**payload["preprocessing"], "layout": "nhwc"}}, "layout nhwc"),
            ({"vision_config": {**payload["vision_config"], "hidden_size": 10**9}}, "hidden_size"),
            ({"lora": {**payload["lora"], "alpha": 9.0}}, "digest"),
            ({"lora": {**payload["lora"], "r": 10**9}}, "out of range"),
            ({"record": [1]}, "not a mapping"),
            ({"record": {"loss": float("nan")}}, "description"),
            ({"base": {}}, "description"),
            ({"fingerprint": {"image_hash": "md5"}}, "fingerprint|description"),
        ]
        for changes, words in broken:
            torch.save({**payload, **changes}, path)
            with pytest.raises(CheckpointError, match=words) as raised:
                load_checkpoint(path)
            assert str(raised.value).startswith(str(path)), words

    def test_a_full_disk_leaves_the_old_file_whole(self, base, path):
        """Whole or not at all: what does not fit leaves neither a half file nor a temporary one."""
        before = path.read_bytes()
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
        try:
            with pytest.raises(CheckpointError, match="cannot be written"):
                save_checkpoint(path, tiny.checkpoint_of(tiny.random_model(base, seed=5), base))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert path.read_bytes() == before
        assert list(path.parent.iterdir()) == [path]


KEY, OTHER = tiny.PATIENT_KEY, PatientKey.of(b"o" * 32)
people = tiny.people


class TestFingerprint:
    def test_tells_who_was_in_training(self, base, tmp_path):
        """Membership survives the file; other patients are not taken for members."""
        save_checkpoint(tmp_path / "m.pth", tiny.checkpoint_of(tiny.random_model(base), base))
        fingerprint = load_checkpoint(tmp_path / "m.pth").fingerprint
        assert fingerprint is not None
        assert fingerprint.shared_patients(people("9", "11", "10", "11", "1"), KEY) == 2
        assert fingerprint.images[:, 0].tolist() == [3, 5, 7]
        assert (list(fingerprint.patients), fingerprint.unchecked(KEY)) == ([KEY.id], "")

    def test_tells_nothing_without_the_key(self):
        """No salt lies beside the hashes: whoever lacks the key cannot try a name, and is told that nobody did."""
        fingerprint = Fingerprint.build([], people("10"), KEY)
        assert fingerprint.shared_patients(people("10"), OTHER) == 0
        assert fingerprint.unchecked(OTHER) == "training used another patient key"
        assert "no patient key" in fingerprint.unchecked(None)

    @pytest.mark.parametrize(("table", "key"), [(people("10"), None), (people(None), KEY), (people(), KEY)])
    def test_without_key_or_patients_stores_none(self, table, key):
        fingerprint = Fingerprint.build([], table, key)
        assert fingerprint.images.shape == (0, 32)
        assert fingerprint.patients == {}
        assert "training stored no patients" in fingerprint.unchecked(KEY)

    def test_a_patient_of_another_source_is_another(self):
        """HMAC-SHA256 over source, NUL, patient, by hashlib's own words."""
        table = pd.DataFrame({"patient": ["a:10", "b:10"], "source": ["a", "b"]})
        expected = {f"{s}:10": hmac.new(b"k" * 32, f"{s}\0".encode() + b"10", "sha256").digest()[:16] for s in "ab"}
        assert KEY.patients(table) == expected
        assert Fingerprint.build([], table, KEY).shared_patients(people("10"), KEY) == 0

    def test_of_a_line_knows_every_ancestor(self):
        """A child knows its own images and patients, its parent's and its grandparent's."""
        first = Fingerprint.build([b"a" * 32, b"b" * 32], people("1", "2"), KEY)
        second = Fingerprint.build([b"b" * 32, b"c" * 32], people("2", "3"), KEY, [first])
        third = Fingerprint.build([b"d" * 32], people("4"), KEY, [second])
        assert [row.tobytes()[:1] for row in third.images] == [b"a", b"b", b"c", b"d"]
        assert third.shared_patients(people("0", "1", "2", "3", "4", "5"), KEY) == 4
        assert [len(rows) for rows in third.patients.values()] == [4]
        assert first.shared_patients(people("3", "4"), KEY) == 0, "the ancestor stays as it was"

    def test_of_a_run_that_goes_on_stays_as_it_was(self):
        """Built again on itself, with the same images and patients, nothing is added."""
        first = Fingerprint.build([b"a" * 32], people("1"), KEY)
        again = Fingerprint.build([b"a" * 32], people("1"), KEY, [first])
        assert again.images.tobytes() == first.images.tobytes()
        assert again.patients[KEY.id].tobytes() == first.patients[KEY.id].tobytes()

    def test_of_strangers_keeps_each_ones_key(self, base, tmp_path):
        """Hashes cannot be keyed again: ancestors of two keys leave two tables, in the file too, and that is said."""
        parents = [Fingerprint.build([bytes([i]) * 32], people(str(i)), key) for i, key in ((1, KEY), (2, OTHER))]
        child = Fingerprint.build([b"\3" * 32], people("3"), KEY, parents)
        save_checkpoint(tmp_path / "m.pth", tiny.checkpoint_of(tiny.random_model(base), base, fingerprint=child))
        loaded = load_checkpoint(tmp_path / "m.pth").fingerprint
        assert loaded is not None
        asked = people("0", "1", "2", "3")
        assert (loaded.shared_patients(asked, KEY), loaded.shared_patients(asked, OTHER)) == (2, 1)
        assert loaded.unchecked(KEY)
        assert loaded.images[:, 0].tolist() == [1, 2, 3]

    def test_of_a_parent_without_key_is_not_whole(self):
        """The child's own patients are known and its parent's are not: nobody may read that as all of them."""
        child = Fingerprint.build([], people("2"), KEY, [Fingerprint.build([], people("1"), None)])
        assert child.shared_patients(people("2"), KEY) == 1
        assert "or not all" in child.unchecked(KEY)

    def test_of_an_earlier_version_still_knows_its_images(self, base, tmp_path):
        """Salted hashes of patients are left aside: images are compared, patients are said not to be."""
        save_checkpoint(tmp_path / "m.pth", tiny.checkpoint_of(tiny.random_model(base), base))
        plain = torch.load(tmp_path / "m.pth", weights_only=True)["fingerprint"]
        salted = {
            "image_hash": "phash-256",
            "images": plain["images"],
            "patient_hash": {"name": "scrypt", "n": 4096, "r": 8, "p": 1},
            "salt": "00" * 16,
            "patients": torch.zeros(2, 32, dtype=torch.uint8),
        }
        loaded = load_checkpoint(rewritten(tmp_path / "m.pth", fingerprint=salted)).fingerprint
        assert loaded is not None
        assert (len(loaded.images), len(loaded.older), loaded.patients) == (0, 3, {})
        child = Fingerprint.build([bytes(32)], people("1"), None, [loaded])
        save_checkpoint(
            tmp_path / "c.pth", replace(tiny.checkpoint_of(tiny.random_model(base), base), fingerprint=child)
        )
        again = load_checkpoint(tmp_path / "c.pth").fingerprint
        assert again is not None
        assert (again.images.tolist(), again.older.tolist()) == ([[0] * 32], loaded.older.tolist())
        assert loaded.unchecked(KEY)

    def test_that_is_garbled_is_refused(self, base, tmp_path):
        save_checkpoint(tmp_path / "m.pth", tiny.checkpoint_of(tiny.random_model(base), base))
        plain = torch.load(tmp_path / "m.pth", weights_only=True)["fingerprint"]
        for garbled in (
            {"patients": {"../key": plain["patients"][KEY.id]}},
            {"patients": {KEY.id: torch.zeros(1, 8, dtype=torch.uint8)}},
            {"patients": []},
            {"whole": 1},
            {"patient_hash": "md5"},
        ):
            with pytest.raises(CheckpointError, match=r"fingerprint|description"):
                load_checkpoint(rewritten(tmp_path / "m.pth", fingerprint={**plain, **garbled}))

    def test_image_hash_survives_recompression_and_tells_eyes_apart(self, tmp_path):
        """A re-encoded, rescaled copy is within 32 of 256 bits; another image is far away."""

        def bits(first, second):
            return sum(
                byte.bit_count() for byte in np.bitwise_xor(*(np.frombuffer(h, np.uint8) for h in (first, second)))
            )

        generator = np.random.default_rng(0)
        smooth = [
            Image.fromarray(generator.integers(0, 255, (12, 12, 3), dtype=np.uint8)).resize((300, 300), 3) for _ in "ab"
        ]
        smooth[0].resize((200, 200)).save(tmp_path / "copy.jpg", quality=60)
        assert bits(image_hash(smooth[0]), image_hash(Image.open(tmp_path / "copy.jpg").convert("RGB"))) < 32
        assert bits(image_hash(smooth[0]), image_hash(smooth[1])) > 80


class TestGraders:
    def test_checkpoint(self, base, tmp_path):
        """Files, digest, description, device, record and fingerprint are the checkpoint's."""
        checkpoint = tiny.checkpoint_of(tiny.random_model(base), base)
        save_checkpoint(tmp_path / "m.pth", checkpoint)
        grader = load_grader(tmp_path / "m.pth")
        data = (tmp_path / "m.pth").read_bytes()
        md5 = hashlib.md5(data).hexdigest()
        assert grader.files == (Subject("m.pth", hashlib.sha256(data).hexdigest(), len(data), "model", md5),)
        assert grader.tensor_digest == checkpoint.tensor_digest
        assert grader.description["base"]["digest"] == base.digest
        assert grader.record == checkpoint.record
        assert grader.preprocessing == checkpoint.preprocessing
        assert len(grader.providers) == 1
        assert grader.outputs(batch(7)).shape == (7, 5)
        json.dumps(grader.description)

    def test_grading_does_not_depend_on_the_batch(self, base, tmp_path):
        """An image has the same logits alone and in company."""
        save_checkpoint(tmp_path / "m.pth", tiny.checkpoint_of(tiny.random_model(base), base))
        grader = load_grader(tmp_path / "m.pth")
        together = grader.outputs(batch(5))
        alone = np.concatenate([grader.outputs(image[None]) for image in batch(5)])
        np.testing.assert_allclose(together, alone, atol=1e-6)

    @pytest.mark.parametrize("count", [1, 8, 11])
    def test_a_set_of_any_size_gives_an_image_the_same_bytes(self, count, base, tmp_path, monkeypatch):
        """Arithmetic rounds otherwise in a batch of another size; the last batch is filled up."""
        save_checkpoint(tmp_path / "m.pth", tiny.checkpoint_of(tiny.random_model(base), base))
        eyes = load_manifest(tiny.write_eyes(tmp_path / "eyes", test=4)).select("test")
        grader, sizes = load_grader(tmp_path / "m.pth"), []
        assert isinstance(grader, Exportable)
        given = grader.inference.begin

        def counted(pixels):
            sizes.append(len(pixels))
            return given(pixels)

        monkeypatch.setattr(grader.inference, "begin", counted)
        whole, part = (
            score(grader, replace(eyes, table=eyes.table.iloc[:number]), workers=0, against=None).table
            for number in (len(eyes), count)
        )
        assert len(part) == count < len(whole)
        pd.testing.assert_frame_equal(part, whole.iloc[:count], check_exact=True)
        assert set(sizes) == {CPU_BATCH}

    def test_the_network_that_grades_has_no_adapters_beside_its_layers(self, base, tmp_path):
        """They would cost a third of the speed on a CPU; it is the network that is exported."""
        save_checkpoint(tmp_path / "m.pth", tiny.checkpoint_of(tiny.random_model(base), base))
        grader = load_grader(tmp_path / "m.pth")
        assert isinstance(grader, Exportable)
        assert not any(".lora_" in name for name in grader.network().state_dict())
        with torch.inference_mode():
            exported = grader.network()(torch.from_numpy(batch())).numpy()
        np.testing.assert_array_equal(grader.outputs(batch()), exported)

    def test_unknown_kind(self, tmp_path):
        """A file that is no model is named, with what was expected."""
        with pytest.raises(CheckpointError, match=r"\*\.pth"):
            load_grader(tmp_path / "model.h5")


class TestOnnxGrader:
    @pytest.fixture
    def model(self, tmp_path):
        return tiny.write_onnx(tmp_path)

    def test_grades_and_names_all_its_files(self, model):
        """Logits by hand; the external data belongs to the model, and to its digest."""
        grader = load_grader(model)
        np.testing.assert_allclose(grader.outputs(batch(3)), batch(3).mean(axis=(2, 3)) @ tiny.WEIGHT, atol=1e-5)
        names = [file.name for file in grader.files]
        assert names == ["model.onnx", "model.onnx.data", "preprocess.json", "labels.json"]
        assert grader.providers[-1] == "CPUExecutionProvider"
        before = grader.tensor_digest
        data = model.with_name("model.onnx.data")
        data.write_bytes(data.read_bytes()[:-1] + b"\x01")
        assert load_grader(model).tensor_digest != before

    @pytest.mark.parametrize(
        ("file", "content", "words"),
        [
            ("labels.json", None, "what its outputs are. Write model.yaml .*, preprocessing: preprocess.json}"),
            (
                "preprocess.json",
                None,
                "preprocessing. State it with --preprocess: one of fundus-square-1",
            ),
            (
                "preprocess.json",
                '{"id": "fundus-square-1", "size": 28}',
                "is not a preprocessing.* take the file away and state it with --preprocess",
            ),
            ("preprocess.json", json.dumps(tiny.recipe(crop="retina-9")), "retina-9"),
            ("preprocess.json", json.dumps(tiny.recipe(mean=[0, 0, 0])), "'mean' is not a key"),
            (
                "preprocess.json",
                json.dumps(tiny.recipe(size=56)),
                "28 x 28, but its preprocessing makes 3 x 56",
            ),
            ("preprocess.json", json.dumps(tiny.recipe(layout="nhwc")), "makes 28 x 28 x 3"),
            ("model.onnx.data", None, "not a file in the same folder"),
            ("model.onnx", "text", "not an ONNX model"),
            ("model.onnx", None, "does not exist"),
        ],
    )
    def test_what_is_missing_or_wrong_beside_it(self, model, file, content, words):
        """An order of classes, a preprocessing or weights that cannot be checked are refused."""
        target = model.with_name(file)
        target.unlink() if content is None else target.write_text(content)
        with pytest.raises(CheckpointError, match=words):
            load_grader(model)

    def test_weights_outside_its_folder_are_refused(self, model):
        """A model must not read files from elsewhere on the machine."""
        import onnx

        loaded = onnx.load(model, load_external_data=False)
        for tensor in loaded.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = "../model.onnx.data"
        model.write_bytes(loaded.SerializeToString())
        with pytest.raises(CheckpointError, match="not a file in the same folder"):
            load_grader(model)


class TestBaseThatAFileNames:
    """A model file cannot make drgate fetch what it names, or look where it says."""

    def named(self, base: Base, path: Path, **changes: Any) -> Path:
        checkpoint = tiny.checkpoint_of(tiny.random_model(base), base)
        save_checkpoint(path, replace(checkpoint, base=replace(checkpoint.base, **changes)))
        return path

    def test_only_the_known_base_is_downloaded(self, base, tmp_path, monkeypatch):
        asked = []

        def snapshot_download(name: str, *, local_files_only: bool, **_: Any) -> str:
            asked.append((name, local_files_only))
            raise OSError("no network here")

        monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
        for name in ("somebody/else", "google/medsiglip-448"):
            with pytest.raises(CheckpointError, match=r"adapters need the base model.* give .*--base"):
                load_checkpoint(self.named(base, tmp_path / "m.pth", id=name, revision="0" * 40)).build()
        assert asked == [("somebody/else", True), ("google/medsiglip-448", False)]

    @pytest.mark.parametrize("revision", ["../../../../dev/zero", "main", "", "0" * 39])
    def test_a_revision_is_a_commit(self, revision, base, tmp_path):
        """In the hub's cache it is a part of a path."""
        with pytest.raises(CheckpointError, match="not a commit"):
            load_checkpoint(self.named(base, tmp_path / "m.pth", id="somebody/else", revision=revision))
