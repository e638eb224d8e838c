"""Publish and remove, or roll back, again and again in child processes, each killed (SIGKILL) at another moment.

    python -m tests.publishing.dying CASE MODEL VERDICT TEMPLATE OUT STEP

A moment in a folder is a call that touches the disk (what Python's audit hooks see, a sync, or half of a file's bytes);
in a bucket it is just before a request, and just after its answer. TEMPLATE holds the versions to begin with: a folder,
which is copied to OUT/0, OUT/1 and so on, or an address, of which copies are OUT-0, OUT-1. One JSON line a child: its
base, and whether it was killed. STEP: from one child's moment to the next one's. The last one comes to its end.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
from pathlib import Path

from tfslim_core import buckets
from tfslim_core.publishing import bucket, folder
from tfslim_core.verdict import Verdict

_EVENTS = {"open", "os.rename", "os.mkdir", "os.chmod", "os.listdir", "os.scandir"}
_DELETIONS = {"os.remove", "os.rmdir"}


class Moments:
    def __init__(self, last: int) -> None:
        self.count, self.last = 0, last
        self._lock = threading.Lock()

    def __call__(self) -> bool:
        with self._lock:  # files are copied in several threads
            self.count += 1
            return self.count == self.last

    def die(self) -> None:
        if self():
            os.kill(os.getpid(), signal.SIGKILL)

    def on_disk(self, base: str) -> None:
        sendfile, fsync = os.sendfile, os.fsync

        def half_sent(target, source, offset, count):
            if self():
                sendfile(target, source, offset, min(count, os.fstat(source).st_size) // 2)
                os.kill(os.getpid(), signal.SIGKILL)
            return sendfile(target, source, offset, count)

        def synced(file):
            self.die()
            return fsync(file)

        def heard(event: str, args: tuple) -> None:
            # Deleting a tree names what is in it by its last part alone.
            if event in _DELETIONS or (event in _EVENTS and any(base in str(arg) for arg in args[:2])):
                self.die()

        os.sendfile, os.fsync = half_sent, synced
        sys.addaudithook(heard)

    def in_requests(self) -> None:
        import requests

        request = requests.Session.request

        def asked(session, *args, **kwargs):
            self.die()
            answer = request(session, *args, **kwargs)
            self.die()
            return answer

        requests.Session.request = asked


def run(case: str, model: Path, verdict: Verdict, base: str) -> None:
    address = buckets.address_of(base)
    module, place = (folder, Path(base)) if address is None else (bucket, address)
    if case == "rollback":
        module.rollback(place)
    else:
        module.publish(model, place, verdict, keep=2)


def _copy_below(source: buckets.Address, target: buckets.Address) -> None:
    storage = buckets._client()
    bucket = storage.bucket(source.bucket)
    for blob in storage.list_blobs(source.bucket, prefix=f"{source.name}/"):
        bucket.copy_blob(blob, bucket, blob.name.replace(source.name, target.name, 1))
    buckets._client.cache_clear()  # a connection is not for two processes


def main(case: str, model: str, verdict: str, template: str, out: str, step: str) -> None:
    found = Verdict.read(Path(verdict))
    for last in range(1, 1000, int(step)):
        base = f"{out}-{last}" if template.startswith("gs://") else f"{out}/{last}"
        if template.startswith("gs://"):
            _copy_below(buckets.address_of(template), buckets.address_of(base))
        else:
            shutil.copytree(template, base)
        child = os.fork()
        if not child:
            moments = Moments(last)
            if template.startswith("gs://"):
                moments.in_requests()
            else:
                moments.on_disk(base)
            run(case, Path(model), found, base)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        print(json.dumps({"base": base, "killed": killed}), flush=True)  # noqa: T201
        if not killed:
            sys.exit(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main(*sys.argv[1:])
