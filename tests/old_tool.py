"""TensorFlow's Graph Transform Tool as an oracle, in a process of its own: it can abort and hang.

Attributes that were stripped as equal to their default make it abort: give it `with_default_attributes(graph_def)`. The
process stays for the next call and is started anew when it died.
"""

from __future__ import annotations

import atexit
import os
import selectors
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterable

import tensorflow as tf

v1 = tf.compat.v1


class OldToolError(Exception):
    """It refused (`how` is "error"), died ("abort") or took too long ("hang")."""

    def __init__(self, how: str, message: str) -> None:
        super().__init__(message)
        self.how = how


def transformed(graph_def, inputs: Iterable[str], outputs: Iterable[str], transforms: str, timeout: float = 60):
    """What the old tool makes of a GraphDef.

    Raises:
        OldToolError: it made nothing.
    """
    reply = _tool().ask([",".join(inputs), ",".join(outputs), transforms], graph_def.SerializeToString(), timeout)
    return v1.GraphDef.FromString(reply)


def with_default_attributes(graph_def):
    """The graph with all attributes that were stripped as equal to their default."""
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(graph_def, name="")
    return graph.as_graph_def()


class _Tool:
    def __init__(self) -> None:
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "2"}
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )
        self._read(1, 120)  # it is up

    def ask(self, texts: list[str], data: bytes, timeout: float) -> bytes:
        for part in (*(text.encode() for text in texts), data):
            self.process.stdin.write(struct.pack("<Q", len(part)) + part)
        status, length = struct.unpack("<BQ", self._read(9, timeout))
        reply = self._read(length, timeout)
        if status:
            raise OldToolError("error", reply.decode(errors="replace"))
        return reply

    def _read(self, length: int, timeout: float) -> bytes:
        end = time.monotonic() + timeout
        found = b""
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while len(found) < length:
                if not selector.select(max(0.0, end - time.monotonic())):
                    self.process.kill()
                    self.process.wait()
                    raise OldToolError("hang", f"not done after {timeout:g} s")
                got = os.read(self.process.stdout.fileno(), min(length - len(found), 1 << 20))
                if not got:
                    code = self.process.wait()
                    raise OldToolError("abort", signal.Signals(-code).name if code < 0 else f"exit code {code}")
                found += got
        return found


_running: list[_Tool] = []


def _tool() -> _Tool:
    if _running and _running[0].process.poll() is not None:
        _running.clear()
    if not _running:
        _running.append(_Tool())
        atexit.register(_running[0].process.kill)
    return _running[0]


def _serve() -> None:
    from tensorflow.python.util._pywrap_transform_graph import TransformGraphWithStringInputs

    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)

    def take() -> bytes:
        (length,) = struct.unpack("<Q", sys.stdin.buffer.read(8))
        return sys.stdin.buffer.read(length)

    out.write(b"1")
    while sys.stdin.buffer.peek(1):
        inputs, outputs, transforms, data = (take() for _ in range(4))
        try:
            status, reply = 0, bytes(TransformGraphWithStringInputs(data, inputs, outputs, transforms))
        except Exception as error:
            status, reply = 1, str(error).encode()
        out.write(struct.pack("<BQ", status, len(reply)) + reply)


if __name__ == "__main__":
    _serve()
