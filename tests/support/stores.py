"""Two object stores on the loopback interface: emulators, each a process that ends with the tests."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

CLOUD = (
    "AWS_ENDPOINT_URL",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_DEFAULT_REGION",
    "STORAGE_EMULATOR_HOST",
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def emulators() -> Iterator[dict[str, str]]:
    """Two emulators, each a process of its own; the environment that leads to them."""
    s3, gcs = free_port(), free_port()
    python = [sys.executable, "-W", "ignore", "-m"]
    commands = [
        [*python, "moto.server", "-H", "127.0.0.1", "-p", str(s3)],
        [
            *python,
            "gcp_storage_emulator",
            "start",
            "--host",
            "127.0.0.1",
            "--port",
            str(gcs),
            "--in-memory",
            "--default-bucket",
            "bucket",
        ],
    ]
    servers = [subprocess.Popen(c, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for c in commands]
    try:
        deadline = time.monotonic() + 60
        for server, port in zip(servers, (s3, gcs), strict=True):
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except OSError:
                    assert server.poll() is None, "the emulator ended"
                    assert time.monotonic() < deadline, "the emulator does not answer"
                    time.sleep(0.05)
        yield {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{s3}",
            "AWS_ACCESS_KEY_ID": "somebody",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{gcs}",
        }
    finally:
        for server in servers:
            server.terminate()
            server.wait()


def put(uri: str, content: bytes) -> None:
    """Upload by the store's own file system."""
    import fsspec

    scheme, path = uri.split("://")
    store = fsspec.filesystem(scheme, skip_instance_cache=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the libraries' own, about uploads
        if scheme == "s3" and not store.exists("bucket"):
            store.mkdir("bucket")
        store.pipe_file(path, content)
