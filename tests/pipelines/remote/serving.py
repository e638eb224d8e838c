"""An HTTP server for tests that breaks connections on purpose."""

from __future__ import annotations

import json
import re
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

DROPPED_BEFORE = "the connection breaks before the request is carried out"
DROPPED_AFTER = "the connection breaks when it has been carried out"


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


@dataclass(frozen=True)
class Answer:
    status: int
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def bytes(self) -> bytes:
        return self.body.encode() if isinstance(self.body, str) else json.dumps(self.body or {}).encode()


@dataclass
class Faults:
    """What the next requests whose "METHOD path" match meet: a fault, another answer, or a function that gives one."""

    waiting: list[tuple[str, Any]] = field(default_factory=list)

    def add(self, pattern: str, *faults: Any) -> None:
        self.waiting += [(pattern, fault) for fault in faults]

    def take(self, request: Request) -> Any:
        for i, (pattern, fault) in enumerate(self.waiting):
            if re.search(pattern, f"{request.method} {request.path}"):
                del self.waiting[i]
                return fault
        return None


@contextmanager
def serving(
    answer: Callable[[Request], Answer], faults: Faults, seen: list[Request], tls: ssl.SSLContext | None = None
) -> Iterator[str]:
    """The server's address; what it was asked is in `seen`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def _handle(self) -> None:
            parts = urlsplit(self.path)
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            kind = self.headers.get("Content-Type", "")
            body = json.loads(raw) if raw and "json" in kind else raw.decode()
            query = dict(parse_qsl(parts.query, keep_blank_values=True))
            request = Request(self.command, parts.path, query, {k.lower(): v for k, v in self.headers.items()}, body)
            seen.append(request)
            fault = faults.take(request)
            if fault == DROPPED_BEFORE:
                self.close_connection = True
                return
            if callable(fault):
                fault = fault(request)
            found = fault if isinstance(fault, Answer) else answer(request)
            if fault == DROPPED_AFTER:
                self.close_connection = True
                return
            self.send_response(found.status)
            for name, value in {"Content-Type": "application/json", **found.headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(found.bytes)))
            self.end_headers()
            self.wfile.write(found.bytes)

        do_GET = do_POST = do_PATCH = do_DELETE = _handle  # noqa: N815  # http.server's names

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
