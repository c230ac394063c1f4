"""Data sets in buckets, from real servers on the loopback interface: the same sets as on disk, fetched once."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from drgate import limits
from drgate.buckets import Address, Bucket, fetch, located
from drgate.errors import CheckpointError, ManifestError
from drgate.files import files_below
from drgate.manifest import load_manifest
from drgate.plan import load_planned
from drgate.predict import photographs_in
from drgate.screen import progress
from drgate.survey import survey, write_canonical
from tests.support import tiny
from tests.support.stores import CLOUD, Between, emulators, put

ROOT = Path(__file__).parent.parent
SETS = ("set", "set/mine.csv", "folders", "retina.npz", "inside")
SECRET = "AKIAABCDEFGHIJKLMNOP"


@pytest.fixture(scope="module")
def local(tmp_path_factory) -> Path:
    """A folder with a table, one with grades as folders, arrays, and Parquet with pictures inside."""
    import pandas as pd

    folder = tmp_path_factory.mktemp("local")
    random = np.random.default_rng(0)
    rows = ["image,grade,patient"]
    pictures = []
    for i in range(10):
        picture = Image.fromarray(random.integers(0, 255, (24, 24, 3), dtype=np.uint8))
        for name in (f"set/photos/{i}.png", f"folders/{i % 5}/{i}.png"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            picture.save(folder / name)
        pictures.append({"bytes": (folder / f"set/photos/{i}.png").read_bytes(), "path": f"{i}.png"})
        rows.append(f"{i},{i % 5},p{i // 2}")
    for table in ("labels.csv", "mine.csv"):
        (folder / "set" / table).write_text("\n".join(rows) + "\n")
    (folder / "set" / "readme").write_text("about")
    (folder / "inside").mkdir()
    pd.DataFrame({"image": pictures, "grade": [i % 5 for i in range(10)]}).to_parquet(folder / "inside/test-0.parquet")
    arrays = {"test_images": random.integers(0, 255, (5, 8, 8, 3), dtype=np.uint8), "test_labels": np.arange(5)}
    np.savez(folder / "retina.npz", **arrays)
    return folder


@pytest.fixture(scope="module")
def stores(local) -> Iterator[dict[str, str]]:
    with emulators() as environment, pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        for scheme in ("s3", "gs"):
            for path in files_below(local, ManifestError):
                put(f"{scheme}://bucket/{path.relative_to(local)}", path.read_bytes())
        yield environment


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("DRGATE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(params=["s3", "gs"])
def scheme(request) -> str:
    return str(request.param)


@pytest.fixture
def between(stores, cache, scheme, monkeypatch) -> Iterator[Between]:
    """What is between drgate and the store."""
    for name, value in stores.items():
        monkeypatch.setenv(name, value)
    name = {"s3": "AWS_ENDPOINT_URL", "gs": "STORAGE_EMULATOR_HOST"}[scheme]
    proxy = Between(stores[name])
    monkeypatch.setenv(name, proxy.url)
    yield proxy
    proxy.close()


def cached(cache: Path) -> list[str]:
    return sorted(path.name for path in files_below(cache, ManifestError))


class TestSameSet:
    @pytest.mark.parametrize("name", SETS)
    def test_as_on_disk(self, between, scheme, local, name):
        """A table, a folder with one, folders of grades, arrays, pictures in Parquet: same rows, bytes and digest."""
        there, here = survey(located(f"{scheme}://bucket/{name}")), survey(local / name)
        assert there.to_json()["digest"] == here.to_json()["digest"]
        assert there.manifest.table.equals(here.manifest.table)
        assert (there.splits, there.patients, there.troubles) == (here.splits, here.patients, [])

    def test_on_the_command_line(self, between, scheme, local, drgate, tmp_path):
        """`drgate manifest` names the address, and what it did not look into; the canonical form is that on disk."""
        asked = ("manifest", "--format", "json")
        ended = drgate(*asked, f"{scheme}://bucket/set", "--out", tmp_path / "labels.csv")
        assert (ended.code, ended.err.count("Wrote")) == (0, 1)
        plain = json.loads(ended.out)
        assert plain["source"] == f"{scheme}://bucket/set/labels.csv"
        assert plain["left_out"]["in a bucket, without the suffix of a picture"]["examples"] == ["readme"]
        here = survey(local / "set")
        write_canonical(here, local / "set" / "canonical.csv")
        assert (tmp_path / "labels.csv").read_text() == (local / "set" / "canonical.csv").read_text()
        (local / "set" / "canonical.csv").unlink()

    def test_predicted(self, between, scheme, local):
        """`drgate predict` takes a folder, a table and a single photograph of a bucket; a missing one stays a row."""
        put(f"{scheme}://bucket/set/visits.csv", b"image,grade\n3,banana\nlost,\n3,\n")
        given = [f"{scheme}://bucket/{name}" for name in ("folders", "set/visits.csv", "set/photos/7.png")]
        found = photographs_in([located(one) for one in given])
        own = [f"{i % 5}/{i}.png" for i in range(10)]
        names = [
            *sorted(f"{given[0]}/{one}" for one in own),
            *[f"{scheme}://bucket/set/{one}" for one in ("photos/3.png", "lost", "photos/3.png")],
            given[2],
        ]
        assert [name for name, _, _ in found.named] == names
        there = [root / image for _, root, image in found.named]
        assert [path.is_file() for path in there] == [True] * 11 + [False, True, True]
        assert there[-1].read_bytes() == (local / "set/photos/7.png").read_bytes()

    def test_evaluated(self, between, scheme, local, drgate, tmp_path, monkeypatch):
        """An evaluation is about the same set as on disk; its name is the address."""
        monkeypatch.chdir(tmp_path)
        model = tiny.write_onnx(tmp_path / "model")
        found = []
        for out, data in (("there", f"{scheme}://bucket/set"), ("here", local / "set")):
            ended = drgate("score", model, "--data", data, "--out", f"{out}.parquet", "--format", "json")
            assert ended.code == 0, ended.err
            ended = drgate(
                *("evaluate", model, "--data", data, "--spec", "smoke", "--out", out, "--format", "json", "--quiet")
            )
            assert ended.code in (0, 1, 3), ended.err
            found.append(json.loads(ended.out)["data"])
        assert found[0]["manifest_digest"] == found[1]["manifest_digest"] == load_manifest(local / "set").digest()
        assert found[0]["images_digest"] == found[1]["images_digest"]
        assert (found[0]["name"], found[1]["name"]) == (f"{scheme}://bucket/set", "set")

    def test_trained_on(self, between, scheme, tmp_path):
        """`drtrain --dataset` takes the same splits of the same set."""
        from trainer.data import load_splits

        eyes = tiny.write_eyes(tmp_path / "eyes", train=1, val=1, test=0)
        for path in files_below(eyes, ManifestError):
            put(f"{scheme}://bucket/eyes/{path.relative_to(eyes)}", path.read_bytes())
        there, here = load_splits(f"{scheme}://bucket/eyes", seed=0), load_splits(str(eyes), seed=0)
        assert there.dataset_digest == here.dataset_digest
        assert list(there.train.table["image"]) == list(here.train.table["image"])

    def test_images_alone_in_a_bucket(self, between, scheme, local):
        """The table here, the photographs there, and the other way round."""
        expected = load_manifest(local / "set" / "mine.csv").digest()
        there = load_manifest(local / "set" / "mine.csv", images=located(f"{scheme}://bucket/set/photos"))
        assert [there.path(image).name for image in there.table["image"]] == [f"{i}.png" for i in range(10)]
        assert there.images_digest() == load_manifest(local / "set" / "mine.csv").images_digest()
        here = load_manifest(f"{scheme}://bucket/set/mine.csv", images=local / "set")
        assert here.digest() == expected
        assert there.name == "mine.csv"
        assert here.name == f"{scheme}://bucket/set/mine.csv"


class TestFetching:
    def test_only_what_a_table_names(self, between, scheme, cache):
        """Other photographs, tables and files of the folder stay there; `drgate plan` fetches the table alone."""
        load_planned(located(f"{scheme}://bucket/set/mine.csv"))
        assert cached(cache) == ["mine.csv"]
        put(f"{scheme}://bucket/part/labels.csv", b"image,grade\na.png,0\n")
        for name in ("a.png", "b.png", "more.csv"):
            put(f"{scheme}://bucket/part/{name}", name.encode())
        between.asked.clear()
        load_manifest(f"{scheme}://bucket/part/labels.csv")
        assert cached(cache) == ["a.png", "labels.csv", "mine.csv"]
        assert len(between.media) == 2

    def test_once(self, between, scheme, cache):
        """A second reading asks for no content; a changed object is fetched again, and nothing else."""
        base = f"{scheme}://bucket/once"
        put(f"{base}/labels.csv", b"image,grade\na.png,0\nb.png,1\n")
        put(f"{base}/a.png", b"first")
        put(f"{base}/b.png", b"other")
        before = load_manifest(base).digest()
        assert len(between.media) == 3
        between.asked.clear()
        assert load_manifest(base).digest() == before
        assert between.media == []
        put(f"{base}/a.png", b"FIRST")
        between.asked.clear()
        after = load_manifest(base)
        assert after.digest() != before
        assert after.path("a.png").read_bytes() == b"FIRST"
        assert len(between.media) == 1

    def test_a_killed_fetch_goes_on(self, between, scheme, cache):
        """After a kill in the middle, complete files are kept, no half one has a name, and the rest is fetched."""
        between.free = 5
        between.wait.clear()
        command = [sys.executable, "-m", "drgate", "manifest", f"{scheme}://bucket/folders"]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while len([name for name in cached(cache) if not name.endswith(".tmp")]) < 5:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
        between.wait.set()
        kept = [name for name in cached(cache) if not name.endswith(".tmp")]
        assert len(kept) == 5
        time.sleep(0.2)  # requests of the killed process are answered
        between.asked.clear()
        between.free = 100
        load_manifest(f"{scheme}://bucket/folders")
        assert len(between.media) == 5
        assert len([name for name in cached(cache) if not name.endswith(".tmp")]) == 10

    def test_what_was_left_is_removed(self, between, scheme, cache):
        """The unfinished file of a process that was killed long ago goes when its object is fetched."""
        path = fetch(f"{scheme}://bucket/set/readme", ManifestError)
        path.unlink()
        (left := path.parent / ".readme.00000000.tmp").write_bytes(b"half")
        os.utime(left, (0, 0))
        fetch(f"{scheme}://bucket/set/readme", ManifestError)
        assert cached(cache) == ["readme"]

    def test_a_truncated_object(self, between, scheme, cache):
        """Fewer bytes than the store says: refused by the object's address, nothing is kept."""
        between.cut = 3
        with pytest.raises(ManifestError, match=rf"^{scheme}://bucket/folders/\d/\d.png (has|did not|cannot be fetch)"):
            load_manifest(f"{scheme}://bucket/folders")
        assert cached(cache) == []

    def test_rows_are_checked_first(self, between, scheme, cache):
        """A grade that is none is refused before a photograph is fetched."""
        put(f"{scheme}://bucket/wrong/labels.csv", b"image,grade\na.png,9\n")
        put(f"{scheme}://bucket/wrong/a.png", b"a")
        with pytest.raises(ManifestError, match=rf"^{scheme}://bucket/wrong/labels.csv, line 2: "):
            load_manifest(f"{scheme}://bucket/wrong")
        assert cached(cache) == ["labels.csv"]

    def test_the_cache_is_its_owners(self, between, scheme, cache):
        """Photographs of patients: nobody else of the machine reads them."""
        load_manifest(f"{scheme}://bucket/folders")
        assert cache.stat().st_mode & 0o077 == 0

    def test_the_private_folder_goes_with_the_manifest(self, between, scheme):
        """Links to the cache are there as long as the manifest is."""
        manifest = load_manifest(f"{scheme}://bucket/folders")
        chosen = manifest.root
        assert manifest.path(manifest.table["image"][0]).is_symlink()
        del manifest
        assert not chosen.exists()


class TestProgress:
    def test_a_line_in_the_bar_of_the_command(self, monkeypatch):
        """Fetching is shown where somebody watches, within the bar of scoring; quiet, nothing is."""
        shown = []
        for quiet in (False, True):
            terminal = io.StringIO()
            terminal.isatty = lambda: True
            monkeypatch.setattr(sys, "stderr", terminal)
            with progress("Scoring", quiet), progress("Fetching", False) as (started, advance):
                started(4)
                advance(3)
                time.sleep(0.3)
            shown.append(terminal.getvalue())
        assert "Fetching" in shown[0]
        assert "3/4" in shown[0]
        assert shown[1] == ""


class TestNames:
    def test_that_no_file_should_have(self, between, scheme):
        """Names that climb out, control characters, empty parts: left out, counted and named; markers are no files."""
        base = f"{scheme}://bucket/odd{scheme}"
        listed = ["0/a.png", "0/", "0/../../up.png", "0//twice.png", "0/bell\x07.png", "0/back\\slash.png", "0/./b.png"]
        items = [{"name": f"odd{scheme}/{name}", "Key": f"odd{scheme}/{name}"} for name in listed]
        for item in items:
            item |= {"size": 0 if item["name"].endswith("/") else 5, "ETag": "1", "etag": "1"}
        put(f"{base}/0/a.png", b"first")

        def listing(*_: object) -> Iterator[dict]:
            yield from items

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("drgate.buckets._listed", listing)
            found = survey(located(base))
        assert list(found.manifest.table["image"]) == ["0/a.png"]
        assert {why: len(names) for why, names in found.left_out.items()} == {"a name that no file should have": 5}

    @pytest.mark.parametrize("cell", ["s3://bucket/folders/0/0.png", "../folders/0/0.png", "/etc/passwd"])
    def test_in_a_table(self, between, scheme, cache, cell):
        """A row's image is below the folder that the caller names: no other address, no way out."""
        put(f"{scheme}://bucket/cell/labels.csv", f"image,grade\n{cell},0\n".encode())
        with pytest.raises(ManifestError, match=r"line 2: the image (is a|is out|file is not)") as no:
            load_manifest(f"{scheme}://bucket/cell/labels.csv")
        assert str(no.value).startswith(f"{scheme}://bucket/cell/labels.csv")
        assert cached(cache) == ["labels.csv"]

    def test_two_on_one_file(self, between, scheme, monkeypatch):
        """Names that differ by case, where the file system has one for both, are refused, and not mixed up."""
        for name in ("0/eye.png", "1/EYE.png", "0/EYE.png"):
            put(f"{scheme}://bucket/case/{name}", name.encode())
        assert len(load_manifest(f"{scheme}://bucket/case")) == 3
        link = Path.symlink_to

        def folded(self: Path, target: Path) -> None:
            link(self.with_name(self.name.lower()), target)

        monkeypatch.setattr(Path, "symlink_to", folded)
        with pytest.raises(ManifestError, match=rf"^{scheme}://bucket/case/0/eye.png and another object have names"):
            load_manifest(f"{scheme}://bucket/case")

    def test_a_file_that_is_a_folder_too(self, between, scheme):
        """Stores allow an object below another one, file systems do not."""
        put(f"{scheme}://bucket/both/labels.csv", b"image,grade\na.png,0\na.png/b.png,1\n")
        for name in ("a.png", "a.png/b.png"):
            put(f"{scheme}://bucket/both/{name}", name.encode())
        with pytest.raises(ManifestError, match="another object have names that are one"):
            load_manifest(f"{scheme}://bucket/both/labels.csv")

    def test_too_many(self, between, scheme, monkeypatch):
        """A bucket of everything ends in a sentence, not in all its pages."""
        monkeypatch.setattr(limits, "BUCKET_OBJECTS", 3)
        with pytest.raises(ManifestError, match=rf"^{scheme}://bucket/folders holds more than 3 objects"):
            load_manifest(f"{scheme}://bucket/folders")

    def test_all_pages(self, cache, stores, monkeypatch):
        """A listing of several pages is read to its end."""
        for name, value in stores.items():
            monkeypatch.setenv(name, value)
        import s3fs  # type: ignore[import-untyped]

        ask = s3fs.S3FileSystem._call_s3

        async def two_at_a_time(self, method: str, *rest: object, **more: object) -> object:
            return await ask(self, method, *rest, **more, **({"MaxKeys": 2} if method == "list_objects_v2" else {}))

        monkeypatch.setattr(s3fs.S3FileSystem, "call_s3", lambda self, *a, **m: _run(self, two_at_a_time, *a, **m))
        assert len(Bucket(Address("s3://bucket/folders"), ManifestError).objects) == 10

    def test_all_pages_of_google(self, monkeypatch):
        """The same, of Google's store."""
        pages = {None: ("a", "next"), "next": ("b", "last"), "last": ("c", None)}

        class Store:
            def call(self, *_: object, pageToken: str | None = None, **__: object) -> dict:
                name, more = pages[pageToken]
                return {"items": [{"name": f"d/{name}", "size": "1"}], "nextPageToken": more}

        monkeypatch.setattr("drgate.buckets._store", lambda scheme: Store())
        assert [*Bucket(Address("gs://bucket/d"), ManifestError).objects] == ["a", "b", "c"]


def _run(store, method, *given, **more):
    from fsspec.asyn import sync

    return sync(store.loop, method, store, *given, **more)


class TestRefused:
    @pytest.mark.parametrize("name", ["none", "none.csv", "none/labels.csv"])
    @pytest.mark.parametrize("bucket", ["bucket", "elsewhere"])
    def test_what_is_not_there(self, between, scheme, cache, drgate, bucket, name):
        """A missing object, folder or bucket: one sentence, exit code 2, nothing written."""
        ended = drgate("manifest", f"{scheme}://{bucket}/{name}")
        assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
        assert ended.err.startswith(f"drgate: {scheme}://{bucket}/{name} cannot be fetched: there is no such object")
        assert not cache.exists()

    def test_denied(self, between, scheme, cache, drgate):
        """A store that says no: who may is what the sentence is about."""
        denied = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
        between.answer = lambda path: (403, denied if scheme == "s3" else b'{"error": {"message": "forbidden"}}')
        ended = drgate("manifest", f"{scheme}://bucket/folders")
        assert (ended.code, ended.err.count("\n")) == (2, 1)
        assert "you have no access to it" in ended.err
        assert not cache.exists()

    def test_without_credentials(self, stores, cache, monkeypatch, drgate, tmp_path):
        """The variables that give them."""
        for name in CLOUD:
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("AWS_ENDPOINT_URL", stores["AWS_ENDPOINT_URL"])
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
            monkeypatch.setenv(name, str(tmp_path / "none"))
        ended = drgate("manifest", "s3://bucket/folders")
        assert (ended.code, ended.err.count("\n")) == (2, 1)
        assert "AWS_ACCESS_KEY_ID" in ended.err

    @pytest.mark.parametrize(("kind", "package", "extra"), [("gs", "gcsfs", "gcs"), ("s3", "s3fs", "s3")])
    def test_without_the_extra(self, cache, monkeypatch, drgate, kind, package, extra):
        """The command that installs it."""
        import fsspec

        monkeypatch.setitem(sys.modules, package, None)
        for known in ("gs", "gcs", "s3", "s3a"):
            monkeypatch.delitem(sys.modules[fsspec.get_filesystem_class.__module__]._registry, known, raising=False)
        ended = drgate("manifest", f"{kind}://bucket/folders")
        assert (ended.code, ended.err.count("\n")) == (2, 1)
        assert f'pip install -c constraints.txt ".[{extra}]"' in ended.err

    @pytest.mark.parametrize("command", ["manifest", "plan --data", "score model.onnx --out p.parquet --data"])
    @pytest.mark.parametrize(
        "remote", [f"{SECRET}:x@bucket/a.csv", f"bucket/a.csv?X-Amz-Credential={SECRET}", f"bucket/../{SECRET}", ""]
    )
    def test_secrets_are_not_repeated(self, cache, drgate, scheme, remote, command, tmp_path, monkeypatch):
        """An address with a key or a signature is refused without it."""
        monkeypatch.chdir(tmp_path)
        tiny.write_onnx(tmp_path)
        ended = drgate(*command.split(), f"{scheme}://{remote}")
        assert (ended.code, ended.err.count("\n")) == (2, 1)
        assert "is not one of a bucket" in ended.err
        assert SECRET not in ended.err + ended.out

    def test_secrets_in_what_a_library_says(self, between, scheme, monkeypatch, drgate):
        """Of a URL in its message, neither the query nor the password is passed on."""
        said = f"cannot reach https://me:{SECRET}@host/bucket/a.csv?X-Goog-Signature={SECRET}&more"

        def fails(scheme: str) -> None:
            raise OSError(said)

        monkeypatch.setattr("drgate.buckets._store", fails)
        ended = drgate("manifest", f"{scheme}://bucket/a.csv")
        assert ended.code == 2
        assert "cannot reach https://host/bucket/a.csv" in ended.err
        assert SECRET not in ended.err + ended.out

    def test_verifying_fetches_nothing(self, between, scheme, cache, drgate, tmp_path):
        """`drgate verify` and `drgate gate` read what is here: an address is no certificate, and nothing is asked."""
        for command in ("verify", "gate --policy"):
            assert drgate(*command.split(), f"{scheme}://bucket/set/labels.csv").code == 2
        (tmp_path / "certificate.json").write_text("{}")
        assert drgate("verify", tmp_path / "certificate.json", "--data", f"{scheme}://bucket/set").code == 2
        assert between.asked == []
        assert not cache.exists()

    @pytest.mark.parametrize("other", ["https://host/labels.csv", "hf://datasets/someone/eyes", "ftp://host/a"])
    def test_other_addresses(self, cache, drgate, other):
        """Photographs are read from this machine and from two kinds of store."""
        ended = drgate("manifest", other)
        assert (ended.code, ended.err.count("\n")) == (2, 1)
        assert "Give a local path, or an address with gs:// or s3://." in ended.err

    def test_no_room(self, between, scheme, cache, monkeypatch):
        """What does not fit on the disk is refused before it is fetched."""
        room = namedtuple("room", "free")
        monkeypatch.setattr("shutil.disk_usage", lambda path: room(10))
        with pytest.raises(ManifestError, match=r"takes 1 MB, and .* has 0 MB free; set DRGATE_CACHE"):
            load_manifest(f"{scheme}://bucket/folders")
        assert cached(cache) == []

    def test_no_cache(self, between, scheme, monkeypatch):
        """Whoever wants no pictures kept is asked for a folder."""
        monkeypatch.setenv("DRGATE_CACHE", "none")
        with pytest.raises(ManifestError, match="DRGATE_CACHE is none"):
            load_manifest(f"{scheme}://bucket/folders")

    def test_the_cache_is_in_the_users_folder(self, monkeypatch, tmp_path, between, scheme):
        """Without DRGATE_CACHE, files are below XDG_CACHE_HOME; a relative one is ignored for ~/.cache."""
        monkeypatch.delenv("DRGATE_CACHE")
        monkeypatch.setenv("HOME", str(tmp_path))
        for given, expected in ((str(tmp_path / "xdg"), tmp_path / "xdg"), ("relative", tmp_path / ".cache")):
            monkeypatch.setenv("XDG_CACHE_HOME", given)
            path = fetch(f"{scheme}://bucket/set/readme", CheckpointError)
            assert path.is_relative_to(expected / "drgate" / "fetched")
