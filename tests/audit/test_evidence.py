"""What an audit looks at: each photograph once, from the bytes that were hashed, and not again if nothing changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from drgate.answers import Answer
from drgate.audit.evidence import Examined, examine, examined_by, photographs, picture_of
from drgate.errors import ManifestError
from drgate.evaluation import Subject
from drgate.manifest import Manifest, load_manifest
from drgate.preprocessing import parse_preprocessing
from drgate.score import score
from drgate.vision.cache import Records
from drgate.vision.images import read_image
from drgate.vision.perceptual import HASHED_AT, perceptual_hash
from drgate.vision.prepared import prepare_image
from tests.support import tiny
from trainer.data import read_images

PREPROCESS = parse_preprocessing("fundus-square-2@32")


@pytest.fixture
def eyes(tmp_path: Path) -> Path:
    """Ten photographs, one of them large."""
    folder = tiny.write_eyes(tmp_path / "eyes", train=1, val=0, test=1)
    tiny.eye(0, 0, size=1900).save(folder / "images" / "test-0-0.png", format="JPEG")
    return folder


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were examined since."""
    seen: list[str] = []

    def watched(of: tuple[Path, str]) -> Examined | str:
        seen.append(of[0].name)
        return examine(of)

    monkeypatch.setattr("drgate.audit.evidence.examine", watched)
    return seen


class TestCache:
    def test_what_was_seen_is_not_looked_at_again(self, eyes: Path, tmp_path: Path, looked: list[str]):
        """Of the same contents under other names in another folder; and it is the same to the last bit."""
        plain = photographs(load_manifest(eyes), workers=0)
        first = photographs(load_manifest(eyes), workers=0, cache=tmp_path / "cache")
        assert len(looked) == 20, "without a cache, all; with an empty one, all"
        eyes.rename(tmp_path / "elsewhere")
        again = photographs(load_manifest(tmp_path / "elsewhere"), workers=0, cache=tmp_path / "cache")
        assert len(looked) == 20
        assert plain.seen == first.seen == again.seen
        tiny.eye(1, 99).save(tmp_path / "elsewhere" / "images" / "test-1-0.png")
        photographs(load_manifest(tmp_path / "elsewhere"), workers=0, cache=tmp_path / "cache")
        assert looked[20:] == ["test-1-0.png"]

    def test_training_fills_it(self, eyes: Path, tmp_path: Path, looked: list[str]):
        """What training decoded, an audit needs not decode, and finds what it would have found."""
        training = load_manifest(eyes)
        images = read_images(training, PREPROCESS, workers=0, folder=tmp_path, cache=tmp_path / "cache")
        found = photographs(training, workers=0, cache=tmp_path / "cache")
        assert looked == []
        assert found.seen == photographs(training, workers=0).seen
        assert [one.tobytes() for one in found.hashes] == images.hashes

    def test_an_unreadable_file_is_looked_at_again(self, eyes: Path, tmp_path: Path, looked: list[str]):
        """It stays a sentence, which no cache keeps: it names a file."""
        (file := eyes / "images" / "test-1-0.png").write_bytes(b"no photograph")
        for _ in range(2):
            found = photographs(load_manifest(eyes), workers=0, cache=tmp_path / "cache")
            (said,) = [one for one in found.seen if isinstance(one, str)]
            assert said == f"{file}: this file cannot be read as an image (it is damaged, or no image)."
        assert looked.count("test-1-0.png") == 2
        assert len(looked) == 11

    @pytest.mark.parametrize("written", [None, [], [1, 2, 3, 4], ["zz", {}, {}, ""], ["00", {}, {}, "00"], {"a": 1}])
    def test_a_record_that_nothing_here_wrote_is_none(
        self, eyes: Path, tmp_path: Path, looked: list[str], written: object
    ):
        """Whatever lies in the cache, the photograph is looked at again."""
        contents = list(load_manifest(eyes).content_digests().values())
        Records(tmp_path / "cache", examined_by()).write(dict.fromkeys(contents, written))
        found = photographs(load_manifest(eyes), workers=0, cache=tmp_path / "cache")
        assert len(looked) == 10
        assert found.seen == photographs(load_manifest(eyes), workers=0).seen

    def test_what_is_seen_is_plain(self, eyes: Path):
        """As JSON and back it is the same, so that an audit from the cache has the same bytes."""
        for one in photographs(load_manifest(eyes), workers=0).seen:
            assert isinstance(one, Examined)
            assert Examined.of(one.digest, json.loads(json.dumps(one.record()))) == one


def test_the_hash_is_the_same_for_training_scoring_and_audit(eyes: Path):
    """Whatever each decodes: a model trained by one preprocessing is recognised on photographs that it trained on."""
    path = eyes / "images" / "test-0-0.png"
    (content,) = [one for image, one in load_manifest(eyes).content_digests().items() if path.name in image]
    found = examine((path, content))
    assert isinstance(found, Examined)
    ways = [None, *map(parse_preprocessing, ("fundus-square-1@448", "fundus-square-2@448", "fundus-square-2@32"))]
    for way in ways:
        assert prepare_image(path, way).hashes == {"drgate-256-v2": found.hashed}
    assert found.hashed == perceptual_hash(read_image(path, HASHED_AT))


class Grader:
    """As far as `score` needs one: it answers 1 for everything."""

    answer = Answer("regression", ())
    preprocessing = PREPROCESS
    files = (Subject("model.bin", "0" * 64, 1, "model"),)
    tensor_digest = f"sha256:{'1' * 64}"
    description: ClassVar[dict[str, Any]] = {"kind": "onnx"}
    providers = ("cpu",)
    precision = None
    fingerprint = record = None
    unknown_data = ""
    notes = ()

    def outputs(self, batch: NDArray[Any]) -> NDArray[Any]:
        return np.ones((len(batch), 1))


def test_a_verdict_reads_no_cache(eyes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What is scored and audited is decoded from the bytes that are hashed, not looked up in what a run left behind."""
    monkeypatch.setenv("DRGATE_CACHE", str(tmp_path / "cache"))
    rows = load_manifest(eyes)
    read_images(rows, PREPROCESS, workers=0, folder=tmp_path, cache=tmp_path / "cache")
    for name in ("Records.read", "SetFile.read", "SetFile.others"):
        monkeypatch.setattr(f"drgate.vision.cache.{name}", lambda *given: pytest.fail("the cache was read"))
    assert len(score(Grader(), rows, workers=0)) == len(rows)  # type: ignore[arg-type]


READ: dict[str, Callable[[Manifest, Path], object]] = {
    "audit": lambda rows, folder: photographs(rows, workers=0),
    "audit with a cache": lambda rows, folder: photographs(rows, workers=0, cache=folder / "cache"),
    "scoring": lambda rows, folder: score(Grader(), rows, workers=0, against=None),  # type: ignore[arg-type]
    "training": lambda rows, folder: read_images(rows, PREPROCESS, workers=0, folder=folder),
    "training with a cache": lambda rows, folder: read_images(
        rows, PREPROCESS, workers=0, folder=folder, cache=folder / "cache"
    ),
    "a pair as pictures": lambda rows, folder: picture_of(photographs(rows, workers=0, files=False).file(3)),
}


@pytest.mark.parametrize("now", ["another photograph", "no photograph", "gone"])
@pytest.mark.parametrize("what", READ)
def test_a_folder_that_changes_meanwhile(what: str, now: str, eyes: Path, tmp_path: Path):
    """A file that is replaced or removed between its SHA-256 and its decoding ends the run with one sentence; it is
    neither the photograph that was hashed nor one without an answer."""
    rows = load_manifest(eyes)
    rows.content_digests()
    path = rows.path(rows.table["image"].iloc[3])
    if now == "another photograph":
        tiny.eye(4, 99).save(path)
    elif now == "no photograph":
        path.write_bytes(b"half of it")
    else:
        path.unlink()
    with pytest.raises(ManifestError) as caught:
        READ[what](rows, tmp_path)
    assert str(caught.value) == (
        f"{path} changed after its SHA-256 was taken; start again when nothing writes to the data set."
    )
