"""Two object stores on the loopback interface: emulators, each a process that ends with the tests."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

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


class Between:
    """A proxy before a store, which notes what is asked of it, and may answer itself.

    asked: method and path of each request. media: those for the content of an object. answer: gets such a path, and
    gives a status and body in place of the store's; None lets it pass. cut: bytes that are missing at the end of each
    content. wait: set, it lets contents pass; how many pass before.
    """

    def __init__(self, store: str) -> None:
        self.store = urlsplit(store).netloc
        self.asked: list[tuple[str, str]] = []
        self.answer: Callable[[str], tuple[int, bytes] | None] = lambda path: None
        self.cut, self.free, self.wait = 0, 0, threading.Event()
        self.wait.set()
        between = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def pass_on(self) -> None:
                between.asked.append((self.command, self.path))
                own, media = between.answer(self.path), is_content(self.command, self.path)
                if media and len(between.media) > between.free:
                    between.wait.wait(60)
                if own is not None:
                    status, body, headers = *own, []
                else:
                    with closing(HTTPConnection(between.store)) as store:
                        length = int(self.headers.get("Content-Length") or 0)
                        store.request(self.command, self.path, self.rfile.read(length), dict(self.headers))
                        reply = store.getresponse()
                        status, body, headers = reply.status, reply.read(), reply.getheaders()
                    if media and between.cut:
                        body = body[: -between.cut]
                self.send_response_only(status)
                for name, value in headers:
                    if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                        self.send_header(name, value)
                length = {name.lower(): value for name, value in headers}.get("content-length", "0")
                self.send_header("Content-Length", length if self.command == "HEAD" else str(len(body)))
                self.end_headers()
                with suppress(OSError):
                    self.wfile.write(b"" if self.command == "HEAD" else body)

            do_GET = do_HEAD = do_PUT = do_POST = pass_on

            def log_message(self, *_: object) -> None:
                """Nothing is printed."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def media(self) -> list[str]:
        return [path for method, path in self.asked if is_content(method, path)]

    def close(self) -> None:
        self.wait.set()
        self.server.shutdown()
        self.server.server_close()


def is_content(method: str, path: str) -> bool:
    """Whether a request asks for the content of an object: S3's address of an object, Google's `alt=media`."""
    asked = urlsplit(path)
    of_s3 = asked.path.count("/") > 1 and not asked.path.startswith(("/storage/", "/b/", "/download/"))
    return method == "GET" and ("alt=media" in asked.query or (of_s3 and "list-type" not in asked.query))
