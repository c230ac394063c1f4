"""Prepared images on disk between runs: what was decoded once, or decoded again, and never an error of its own."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drgate.errors import ImageUnreadable, TrainingError
from drgate.manifest import Manifest, load_manifest
from drgate.preprocessing import FUNDUS_SQUARE, Preprocessing, parse_preprocessing
from drgate.vision.cache import MOST_BYTES, cache_folder
from tests.support.material import photograph
from trainer.data import ImageSet, read_images

SIZE = 32
IMAGES = 6


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Six photographs of 80 pixels, graded 0 to 4 and 0."""
    for i in range(IMAGES):
        photograph(tmp_path / "data" / str(i % 5) / f"{i}.png", seed=i, size=80)
    return tmp_path / "data"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "images"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were decoded since."""
    from drgate.vision.prepared import Prepared, prepare_image

    seen: list[Path] = []

    def prepare(path: Path, preprocess: Preprocessing, **other: Any) -> Prepared:
        seen.append(path)
        return prepare_image(path, preprocess, **other)

    monkeypatch.setattr("trainer.data.prepare_image", prepare)
    return seen


@pytest.fixture
def read(tmp_path: Path, cache: Path) -> Callable[..., ImageSet]:
    """Read a manifest through the cache, in this process; every image must be counted once."""

    def run(
        rows: Manifest | Path,
        *,
        prepare: str = f"{FUNDUS_SQUARE}@{SIZE}",
        notes: list[str] | None = None,
        **other: object,
    ) -> ImageSet:
        manifest = rows if isinstance(rows, Manifest) else load_manifest(rows)
        ready: list[int] = []
        told: list[str] = []
        settings = {"workers": 0, "cache": cache, "folder": tmp_path / "run"} | other
        images = read_images(manifest, parse_preprocessing(prepare), advance=ready.append, note=told.append, **settings)
        assert sum(ready) == len(images) == len(manifest)
        if notes is None:
            assert told == []
        else:
            notes.extend(told)
        return images

    return run


def same(actual: ImageSet, expected: ImageSet) -> bool:
    return (
        np.array_equal(actual.pixels, expected.pixels)
        and np.array_equal(actual.grades, expected.grades)
        and actual.hashes == expected.hashes
    )


def sets(cache: Path) -> list[Path]:
    """The files of pixels, finished or not."""
    return sorted(cache.glob("*.images*"))


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """No file of this process can grow beyond `size` bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class TestSecondRun:
    def test_decodes_nothing(self, data, cache, read, decoded):
        """The first run leaves one file; the second reads the same pixels, grades and hashes from it."""
        expected = read(data, cache=None)
        del decoded[:]
        first = read(data)
        assert len(decoded) == IMAGES
        assert len(sets(cache)) == 1
        del decoded[:]
        second = read(data)
        assert decoded == []
        assert same(first, expected)
        assert same(second, expected)

    def test_cannot_change_the_cache(self, data, read):
        """Pixels come from disk as they are needed, and writing to them is an error."""
        for images in (read(data), read(data)):
            assert isinstance(images.pixels, np.memmap)
            with pytest.raises(ValueError, match="read-only"):
                images.pixels[0] = 0

    def test_finds_images_that_moved(self, data, read, decoded, tmp_path):
        """The contents count, not where they lie or what they are graded."""
        before = read(data)
        data.rename(tmp_path / "elsewhere")
        del decoded[:]
        assert same(read(tmp_path / "elsewhere"), before)
        assert decoded == []

    @pytest.mark.parametrize("what", ["content", "preprocessing", "pillow", "libjpeg", "code", "order", "a subset"])
    def test_decodes_what_is_different(self, what, data, read, decoded, monkeypatch):
        """Another file alone; all for another preprocessing, decoder or drgate; none for another selection."""
        read(data)
        del decoded[:]
        if what == "content":
            photograph(data / "0" / "0.png", seed=99, size=80)
        elif what == "pillow":
            monkeypatch.setattr("PIL.__version__", "99.0")
        elif what == "libjpeg":
            monkeypatch.setattr("PIL.features.version", lambda name: "99.0")
        elif what == "code":
            monkeypatch.setattr("drgate.vision.cache.sha256_file", lambda path: "0" * 64)
        elif what == "order":
            (data / "0" / "0.png").rename(data / "0" / "z.png")
        else:
            (data / "0" / "5.png").unlink()
        prepare = {"prepare": "medsiglip-tf@64"} if what == "preprocessing" else {}
        images = read(data, **prepare)
        assert len(decoded) == {"content": 1, "order": 0, "a subset": 0}.get(what, len(images))
        assert images.pixels.dtype == (np.float32 if prepare else np.uint8), "what is not rounded stays so"
        assert same(images, read(data, cache=None, **prepare))

    def test_takes_no_damaged_photograph_from_another_selection(self, data, cache, read, decoded):
        """It is decoded; the others of that file are copied."""
        read(data)
        (file,) = sets(cache)
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
        del decoded[:]
        (data / "0" / "0.png").unlink()
        assert same(read(data), read(data, cache=None))
        assert len(decoded) == 1 + (IMAGES - 1)

    def test_is_for_its_owner_alone(self, data, cache, read):
        """These are pictures of patients: a folder that is made here is open to nobody else."""
        read(data)
        assert cache.stat().st_mode & 0o777 == 0o700

    def test_leaves_a_folder_that_is_there_as_it_is(self, data, cache, read):
        """Somebody else decided who may read it."""
        cache.mkdir(parents=True)
        cache.chmod(0o750)
        read(data)
        assert cache.stat().st_mode & 0o777 == 0o750


class TestDamage:
    @pytest.mark.parametrize("what", ["truncated", "longer", "header", "hash", "checksum", "pixel", "empty", "text"])
    def test_is_passed_over_and_mended(self, what, data, cache, read, decoded):
        """With one sentence that names the file; the next run finds it whole."""
        expected = read(data)
        (file,) = sets(cache)
        content = bytearray(file.read_bytes())
        pixels = IMAGES * SIZE * SIZE * 3
        if what == "truncated":
            del content[-1]
        elif what == "longer":
            content += b"\0"
        elif what == "header":
            content[20] ^= 1
        elif what == "hash":
            content[-pixels - 32 - 7] ^= 1
        elif what == "checksum":
            content[-pixels - 1] ^= 1
        elif what == "pixel":
            content[-1] ^= 1
        else:
            content[:] = b"" if what == "empty" else b"not an image cache\n"
        file.unlink()  # whoever has the old one mapped keeps it
        file.write_bytes(content)
        del decoded[:]
        notes: list[str] = []
        assert same(read(data, notes=notes), expected)
        assert len(decoded) == (1 if what == "pixel" else IMAGES), "of a damaged pixel, only its photograph"
        assert notes == [f"{file} in the image cache is damaged, so its images are decoded again."]
        assert same(read(data), expected)

    def test_an_unreadable_image_leaves_nothing(self, data, cache, read):
        """The error is that of decoding, and no half-filled file stays."""
        (data / "3" / "3.png").write_bytes(b"no image")
        with pytest.raises(ImageUnreadable, match=r"3\.png"):
            read(data)
        assert sets(cache) == []


class TestLimit:
    def test_the_longest_unused_goes(self, data, cache, read, monkeypatch):
        """All files together keep to the limit; what was used within a day stays, whatever its size."""
        assert MOST_BYTES == 100 << 30
        of = {}
        for seed in (1, 2, 3):  # three lists, the second used last
            photograph(data / "0" / "0.png", seed=seed, size=80)
            before = set(sets(cache))
            read(data)
            (of[seed],) = set(sets(cache)) - before
        for seed, days in ((1, 3), (2, 4), (3, 5)):
            os.utime(of[seed], (time.time() - 86400 * days,) * 2)
        photograph(data / "0" / "0.png", seed=2, size=80)
        read(data)
        monkeypatch.setattr("drgate.vision.cache.MOST_BYTES", 3 * of[1].stat().st_size)
        photograph(data / "0" / "0.png", seed=4, size=80)
        read(data)
        assert of[3] not in sets(cache), "read last, but longest ago"
        assert {of[1], of[2]} < set(sets(cache))
        monkeypatch.setattr("drgate.vision.cache.MOST_BYTES", 0)
        photograph(data / "0" / "0.png", seed=5, size=80)
        read(data)
        assert of[1] not in sets(cache)
        assert len(sets(cache)) == 3, "the three of today"


class TestNoRoom:
    def test_a_full_disk(self, data, cache, read, decoded):
        """Found out before anything is decoded; images stay in memory, with one sentence."""
        notes: list[str] = []
        with files_up_to(5000):
            images = read(data, notes=notes)
        assert len(decoded) == IMAGES
        (note,) = notes
        assert note.startswith(f"The image cache {cache} cannot be written (File too large)")
        assert "DRGATE_CACHE" in note
        assert not isinstance(images.pixels, np.memmap)
        assert same(images, read(data, cache=None))
        assert sets(cache) == []

    def test_a_disk_that_fills_up_meanwhile(self, data, cache, read, monkeypatch):
        """Where room cannot be reserved, a write fails: what was decoded is decoded again, counted once."""
        monkeypatch.setattr("drgate.vision.cache.reserve", lambda file, size: None)
        notes: list[str] = []
        with files_up_to(SIZE * SIZE * 3 * 4):
            images = read(data, notes=notes)
        assert len(notes) == 1
        assert same(images, read(data, cache=None))
        assert sets(cache) == []

    def test_a_folder_that_is_none(self, data, read, tmp_path):
        """A file lies where the folder should be."""
        (tmp_path / "taken").write_text("")
        notes: list[str] = []
        images = read(data, cache=tmp_path / "taken" / "images", notes=notes)
        assert len(notes) == 1
        assert same(images, read(data, cache=None))

    def test_neither_memory_nor_disk(self, data, read, monkeypatch):
        """Without any room the run cannot start, and says how much it needs and where."""
        monkeypatch.setattr("trainer.data._IN_MEMORY", 0)
        with files_up_to(5000), pytest.raises(TrainingError, match=r"0\.0 GB, for which .*run has no room"):
            read(data, cache=None)


FILL = """
import sys
from pathlib import Path
from drgate.manifest import load_manifest
from drgate.preprocessing import FUNDUS_SQUARE, Preprocessing, parse_preprocessing
from trainer.data import read_images

print("ready", flush=True)
input()


def advance(images):
    global ready
    ready += images
    print("one", flush=True)
    if ready == int(sys.argv[4]):
        input()  # for good


ready = 0
prepare = parse_preprocessing(f"{FUNDUS_SQUARE}@{int(sys.argv[3])}")
images = read_images(
    load_manifest(sys.argv[1]), prepare, workers=0, cache=Path(sys.argv[2]), folder=Path(sys.argv[2]),
    advance=advance, note=print,
)
print(images.pixels.sum())
"""


@pytest.fixture
def filling(data: Path, cache: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start processes that fill the cache as soon as a line is written to them, and stop after `until` images."""
    started: list[subprocess.Popen[str]] = []

    def start(until: int = 0) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", FILL, str(data), str(cache), str(SIZE), str(until)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


class TestProcesses:
    def test_two_that_fill_at_once_do_no_harm(self, data, cache, read, filling):
        """Both get the right pixels without a complaint, and one whole file stays."""
        processes = [filling(), filling()]
        for process in processes:
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            process.stdin.write("\n")
            process.stdin.flush()
        outputs = [process.communicate(timeout=60)[0].splitlines() for process in processes]
        expected = ["one"] * IMAGES + [str(read(data, cache=None).pixels.sum())]
        for output in outputs:
            assert output in (expected, ["one", expected[-1]])  # the second may find what the first has finished
        assert [file.suffix for file in sets(cache)] == [".images"]
        read(data)

    def test_one_that_is_killed_leaves_no_file_by_the_name(self, data, cache, read, filling, decoded):
        """SIGKILL half-way: the next run starts anew, and the remains vanish when they are old."""
        process = filling(until=3)
        process.stdin.write("\n")
        process.stdin.flush()
        for expected in ("ready", "one", "one", "one"):
            assert process.stdout.readline().strip() == expected
        left = list(cache.glob(".*.tmp"))
        process.kill()
        process.wait()
        assert len(left) == 1
        assert sets(cache) == left
        read(data)
        assert len(decoded) == IMAGES
        assert left[0].exists(), "another process might still be writing it"
        old = time.time() - 7200
        os.utime(left[0], (old, old))
        photograph(data / "0" / "0.png", seed=99, size=80)
        read(data)
        assert not left[0].exists()
        assert len(sets(cache)) == 2


class TestFolder:
    @pytest.mark.parametrize(
        ("setting", "variables", "expected"),
        [
            ("/a/b", {"DRGATE_CACHE": "/c", "XDG_CACHE_HOME": "/x"}, "/a/b"),
            (None, {"DRGATE_CACHE": "/c", "XDG_CACHE_HOME": "/x"}, "/c"),
            (None, {"XDG_CACHE_HOME": "/x"}, "/x/drgate/images"),
            (None, {"XDG_CACHE_HOME": "relative"}, "/home/somebody/.cache/drgate/images"),
            (None, {}, "/home/somebody/.cache/drgate/images"),
            ("none", {"DRGATE_CACHE": "/c"}, None),
            (None, {"DRGATE_CACHE": "none"}, None),
            ("/a/b", {"DRGATE_CACHE": "none"}, "/a/b"),
        ],
    )
    def test_is_where_it_was_asked_for(self, setting, variables, expected, monkeypatch):
        """The setting, else DRGATE_CACHE, else the user's cache folder; `none` is none."""
        for name in ("DRGATE_CACHE", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HOME", "/home/somebody")
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        assert cache_folder(setting) == (Path(expected) if expected else None)

    def test_without_a_home_there_is_none(self, monkeypatch):
        """As in a container under a user id that nobody has."""
        for name in ("DRGATE_CACHE", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)

        def home() -> Path:
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.setattr(Path, "home", home)
        assert cache_folder(None) is None
