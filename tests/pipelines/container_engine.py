"""A stand-in for Docker's engine on a socket: its API over HTTP, with each container a process on this machine."""

import json
import os
import signal
import socketserver
import struct
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import parse_qs, urlparse

VERSION = {"ApiVersion": "1.41", "MinAPIVersion": "1.24", "Version": "20.10"}


class Engine(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """asked: what each container was created with. there: the processes of those that nobody has removed."""

    daemon_threads = True

    def __init__(self, socket, images):
        super().__init__(str(socket), _Handler)
        self.images = images
        self.info = {"SecurityOptions": ["name=seccomp,profile=default"]}
        self.asked = []
        self.there = {}
        self.refuses_to_start = ""
        self.out_of_memory = False


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def address_string(self):
        return ""

    def log_message(self, *args):
        pass

    def do_GET(self):  # the name that http.server calls
        path = self._path()
        if path == "/version":
            return self._answer(VERSION)
        if path == "/info":
            return self._answer(self.server.info)
        if path.startswith("/images/"):
            image = path.removeprefix("/images/").removesuffix("/json")
            return self._answer({"Id": image}) if image in self.server.images else self._missing("no such image")
        name = path.split("/")[2]
        if path.endswith("/logs"):
            return self._logs(self.server.there[name])
        state = {"OOMKilled": self.server.out_of_memory}
        return self._answer({"Id": name, "State": state, "Config": {"Tty": False}})

    def do_POST(self):
        path = self._path()
        sent = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or "{}")
        if path == "/images/create":
            (image,) = parse_qs(urlparse(self.path).query)["fromImage"]
            return self._missing(f"pull access denied for {image}")
        if path == "/containers/create":
            name = f"{len(self.server.asked)}"
            self.server.asked.append(sent)
            self.server.there[name] = None
            return self._answer({"Id": name}, 201)
        name = path.split("/")[2]
        if path.endswith("/start"):
            return self._start(name)
        process = self.server.there.get(name)
        if path.endswith("/kill"):
            os.killpg(process.pid, signal.SIGKILL)
            return self._answer(None, 204)
        code = process.wait()
        return self._answer({"StatusCode": code if code >= 0 else 128 - code})

    def do_DELETE(self):
        del self.server.there[self._path().split("/")[2]]
        self._answer(None, 204)

    def _start(self, name):
        if self.server.refuses_to_start:
            return self._answer({"message": self.server.refuses_to_start}, 500)
        sent = self.server.asked[int(name)]
        environment = dict(one.split("=", 1) for one in sent["Env"])
        python = Path(sys.executable).parent
        self.server.there[name] = subprocess.Popen(
            sent["Cmd"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "PATH": f"{python}:{os.environ['PATH']}", **environment},
        )
        return self._answer(None, 204)

    def _logs(self, process):
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        for line in process.stdout:
            for part in (line[:7], line[7:]):  # as an engine does, without regard to lines
                self.wfile.write(struct.pack(">BxxxI", 1, len(part)) + part)
                self.wfile.flush()
        self.close_connection = True

    def _path(self):
        return urlparse(self.path).path.removeprefix(f"/v{VERSION['ApiVersion']}")

    def _missing(self, what):
        self._answer({"message": what}, 404)

    def _answer(self, content, status=200):
        body = b"" if content is None else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def running(socket, images):
    """Serve on a socket while the block runs."""
    with Engine(socket, images) as engine:
        threading.Thread(target=engine.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        try:
            yield engine
        finally:
            engine.shutdown()
