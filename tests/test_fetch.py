"""Checkpoints in buckets: fetched whole or not at all, from real servers on the loopback interface."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from drgate.buckets import fetch as from_bucket
from drgate.errors import CheckpointError
from drgate.vision.checkpoint import load_checkpoint, save_checkpoint
from tests.support import tiny
from tests.support.stores import CLOUD, emulators, free_port, put

CONTENT = os.urandom(3 << 20)
fetch = partial(from_bucket, error=CheckpointError, hub=True)


@pytest.fixture(scope="module")
def stores() -> Iterator[dict[str, str]]:
    with emulators() as environment:
        yield environment


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("DRGATE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def cloud(stores, cache, monkeypatch) -> None:
    for name, value in stores.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(params=["s3", "gs"])
def scheme(request) -> str:
    return str(request.param)


class TestLocal:
    def test_comes_back_as_it_is(self, cache):
        """A path is no address, wherever it leads; nothing is copied."""
        assert fetch("runs/a/best_model.pth") == Path("runs/a/best_model.pth")
        assert fetch("~/m.pth") == Path.home() / "m.pth"
        assert not cache.exists()


@pytest.mark.usefixtures("cloud")
class TestBuckets:
    def test_a_checkpoint_is_fetched_whole(self, scheme, tmp_path):
        """What lies in the bucket is the model that was put there."""
        base = tiny.tiny_base(tmp_path / "base")
        save_checkpoint(tmp_path / "m.pth", tiny.checkpoint_of(tiny.random_model(base), base))
        uri = f"{scheme}://bucket/checkpoints/best_model.pth"
        put(uri, (tmp_path / "m.pth").read_bytes())
        path = fetch(uri)
        assert path.name == "best_model.pth"
        assert load_checkpoint(path).tensor_digest == load_checkpoint(tmp_path / "m.pth").tensor_digest

    def test_once(self, scheme, cache):
        """A second time the file in the cache answers; a changed object is fetched anew, of the same size too."""
        uri = f"{scheme}://bucket/once.pth"
        put(uri, CONTENT)
        first = fetch(uri)
        first.write_bytes(b"x" * len(CONTENT))  # what only a file that was not fetched again can hold
        assert fetch(uri) == first
        assert first.read_bytes()[:1] == b"x"
        put(uri, CONTENT[::-1])
        second = fetch(uri)
        assert second != first
        assert second.read_bytes() == CONTENT[::-1]
        assert sorted(path.name for path in cache.rglob("*") if path.is_file()) == ["once.pth"] * 2

    def test_no_such_object(self, scheme, cache):
        """An absent file and an absent bucket are one sentence each, and nothing is left."""
        put(f"{scheme}://bucket/there.pth", b"there")
        for uri in (f"{scheme}://bucket/none.pth", f"{scheme}://elsewhere/none.pth"):
            with pytest.raises(CheckpointError, match=f"^{uri} cannot be fetched: there is no such object"):
                fetch(uri)
        assert not cache.exists()

    def test_a_folder(self, scheme):
        """A folder of checkpoints is not a checkpoint."""
        put(f"{scheme}://bucket/folder/m.pth", b"there")
        with pytest.raises(CheckpointError, match="is a folder"):
            fetch(f"{scheme}://bucket/folder")

    def test_a_transfer_that_breaks_off_leaves_nothing(self, scheme, cache, monkeypatch):
        """Neither a half file under the checkpoint's name nor a temporary one."""
        uri = f"{scheme}://bucket/breaks.pth"
        put(uri, CONTENT)
        from fsspec.callbacks import Callback

        def breaks(self: Callback, *_: Any, **__: Any) -> None:
            raise OSError("the connection was lost")

        with monkeypatch.context() as broken:
            broken.setattr(Callback, "relative_update", breaks)
            with pytest.raises(CheckpointError, match="the connection was lost"):
                fetch(uri)
        assert [path for path in cache.rglob("*") if path.is_file()] == []
        assert fetch(uri).read_bytes() == CONTENT

    def test_other_bytes_than_the_store_says(self, cache, monkeypatch):
        """Google's store names an MD5: what arrives with another is not kept."""
        uri = "gs://bucket/damaged.pth"
        put(uri, CONTENT)
        from gcsfs import GCSFileSystem

        def damaged(self: Any, remote: str, local: str, **_: Any) -> None:
            Path(local).write_bytes(b"\0" + CONTENT[1:])

        monkeypatch.setattr(GCSFileSystem, "get_file", damaged)
        with pytest.raises(CheckpointError, match="md5 differs"):
            fetch(uri)
        assert [path for path in cache.rglob("*") if path.is_file()] == []

    def test_progress_where_somebody_watches(self, monkeypatch, capsys):
        """On a terminal, standard error counts megabytes; quiet, and elsewhere, it stays empty."""
        uri = "s3://bucket/watched.pth"
        put(uri, CONTENT)
        fetch(uri)
        assert capsys.readouterr() == ("", "")
        shown: list[int] = []
        from contextlib import contextmanager

        @contextmanager
        def counting(what: str, quiet: bool) -> Iterator[Any]:
            yield (lambda total: shown.append(-total)), shown.append

        monkeypatch.setattr("drgate.buckets.progress", counting)
        put(uri, CONTENT + b"more")
        fetch(uri)
        assert shown[0] == -4
        assert sum(shown[1:]) == 3


class TestRefused:
    def test_without_credentials(self, stores, cache, monkeypatch, tmp_path):
        """S3 without a key: the sentence says which variables."""
        for name in CLOUD:
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("AWS_ENDPOINT_URL", stores["AWS_ENDPOINT_URL"])
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
        with pytest.raises(CheckpointError, match=r"no access .*AWS_ACCESS_KEY_ID"):
            fetch("s3://bucket/m.pth")

    def test_without_a_network(self, stores, cache, monkeypatch):
        """Nobody answers: the address and what the library found, in one line."""
        for name, value in stores.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        with pytest.raises(CheckpointError, match=r"^s3://bucket/m\.pth cannot be fetched: .*connect") as raised:
            fetch("s3://bucket/m.pth")
        assert "\n" not in str(raised.value)

    def test_offline_the_hub_is_out_of_reach(self, cache, monkeypatch):
        """A model on the hub without a way there."""
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(CheckpointError, match=r"^hf://someone/model/best\.pth cannot be fetched: ") as raised:
            fetch("hf://someone/model/best.pth")
        assert "\n" not in str(raised.value)

    @pytest.mark.parametrize(("scheme", "package", "extra"), [("gs", "gcsfs", "gcs"), ("s3", "s3fs", "s3")])
    def test_without_the_extra(self, cache, monkeypatch, scheme, package, extra):
        """The sentence is the command that installs it."""
        import fsspec

        monkeypatch.setitem(sys.modules, package, None)
        for known in ("gs", "gcs", "s3", "s3a"):
            monkeypatch.delitem(sys.modules[fsspec.get_filesystem_class.__module__]._registry, known, raising=False)
        with pytest.raises(CheckpointError, match=rf'pip install -c constraints.txt "\.\[{extra}\]"'):
            fetch(f"{scheme}://bucket/m.pth")

    @pytest.mark.parametrize(
        "uri", ["ftp://host/m.pth", "https://host/m.pth", "s3://", "s3://bucket", "gs://bucket/", "gs://b/.."]
    )
    def test_other_addresses(self, cache, uri):
        """What is no bucket's, and what names no file."""
        with pytest.raises(CheckpointError, match=r"is of a kind|names no file|is not one of a bucket"):
            fetch(uri)
