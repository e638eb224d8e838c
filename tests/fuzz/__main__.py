"""`python -m tests.fuzz --count 1000000 --seed 1`: hostile inputs for every reader, and what came of them.

Inputs are numbered; input N of a reader is the same for the same seed. Readers run in a child that may take a bounded
amount of memory and time for each; when it dies, the next one goes on behind the input that killed it.
"""

from __future__ import annotations

import argparse
import mmap
import os
import random
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from tests.fuzz.mutations import mutated
from tests.fuzz.readers import Reader, readers
from tfslim_core.errors import TfslimError

MEMORY = 640 << 20  # bytes that reading one input may take: what constants may claim, twice, and some
SECONDS = 10.0  # for one input
OUTCOMES = ("accepted", "refused", "crashes", "hangs", "over bound")
_ACCEPTED, _REFUSED, _CRASH, _HANG, _OVER = range(5)


@dataclass
class Tally:
    """What came of a reader's inputs, by outcome; told: each kind of trouble once, with the input's number."""

    counts: list[int] = field(default_factory=lambda: [0] * 5)
    told: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0


class _HangError(BaseException):
    """Reading takes too long; no reader must catch it."""


def fuzzed(reader: Reader, count: int, seed: int) -> Tally:
    """Feed a reader `count` inputs."""
    tally, start = Tally(), time.monotonic()
    shared = mmap.mmap(-1, 8 * 6)
    begin = 0
    while begin < count:
        told_r, told_w = os.pipe()
        shared[:8] = struct.pack("<q", begin)
        child = os.fork()
        if not child:
            os.close(told_r)
            _child(reader, begin, count, seed, shared, told_w)
        os.close(told_w)
        stopped = _watch(child, shared, told_r, tally)
        at = struct.unpack("<q", shared[:8])[0]
        if stopped is None:
            break
        outcome, what = stopped
        tally.counts[outcome] += 1
        shared[8:] = struct.pack("<5q", *tally.counts)
        tally.told.setdefault(what, at)
        begin = at + 1
    tally.seconds = time.monotonic() - start
    return tally


def _watch(child: int, shared: mmap.mmap, told: int, tally: Tally) -> tuple[int, str] | None:
    """Wait for the child to end; what its last input did to it, or None when it came through."""
    last, since = -1, time.monotonic()
    hung = False
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            break
        at = struct.unpack("<q", shared[:8])[0]
        if at != last:
            last, since = at, time.monotonic()
        elif time.monotonic() - since > 2 * SECONDS and not hung:
            os.kill(child, signal.SIGKILL)
            hung = True
        time.sleep(0.005)
    with os.fdopen(told) as lines:
        for line in lines.read().splitlines():
            number, _, what = line.partition(" ")
            tally.told.setdefault(what, int(number))
    tally.counts = list(struct.unpack("<5q", shared[8:]))
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0:
        return None
    if hung:
        return _HANG, "does not end, not even by an alarm"
    how = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else f"exit {os.WEXITSTATUS(status)}"
    return _CRASH, f"the process ends: {how}"


def _child(reader: Reader, begin: int, count: int, seed: int, shared: mmap.mmap, told: int) -> None:
    code = 1
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        _bound_memory()
        signal.signal(signal.SIGALRM, _hang)
        _feed(reader, begin, count, seed, shared, told)
        code = 0
    except BaseException:
        os.write(told, f"{begin} the harness: {traceback.format_exc()[-500:]!r}\n".encode())
    finally:
        os._exit(code)


def _feed(reader: Reader, begin: int, count: int, seed: int, shared: mmap.mmap, told: int) -> None:
    file = _file(reader)
    counts, known = list(struct.unpack("<5q", shared[8:])), set()
    for number in range(begin, count):
        shared[:8] = struct.pack("<q", number)
        file.write_bytes(_input(reader, number, seed))
        outcome, what = _outcome(reader)
        if number < len(reader.seeds) and outcome != _ACCEPTED:
            what = what or "a valid file is refused"
        counts[outcome] += 1
        if what and what not in known:
            known.add(what)
            os.write(told, f"{number} {what}\n".encode())
        shared[8:] = struct.pack("<5q", *counts)


def _file(reader: Reader) -> Path:
    name = Path(reader.name.partition(" ")[0].rstrip(",")).name
    return reader.folder / "variables" / name if name.startswith("variables") else reader.folder / name


def _input(reader: Reader, number: int, seed: int) -> bytes:
    rng = random.Random(f"{seed}/{reader.name}/{number}")
    if number < len(reader.seeds):
        return reader.seeds[number]  # what is valid is accepted
    return reader.mend(mutated(rng.choice(reader.seeds), reader.seeds, rng))


def _outcome(reader: Reader) -> tuple[int, str]:
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        accepted = reader.read(reader.folder)
    except TfslimError as error:
        if "OOM" in str(error):
            return _OVER, f"TensorFlow wants too much at {_place(error)}"
        lines = str(error).count("\n")
        return (_CRASH, f"the message of {type(error).__name__} has {lines + 1} lines") if lines else (_REFUSED, "")
    except MemoryError as error:
        return _OVER, f"MemoryError at {_place(error)}"
    except _HangError as error:
        return _HANG, f"hangs at {_place(error)}"
    except BaseException as error:
        said = " ".join(str(error).split())[:160]
        return _CRASH, f"{type(error).__name__} at {_place(error)}: {said}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return (_ACCEPTED, "") if accepted else (_REFUSED, "")


def _place(error: BaseException) -> str:
    """The last line of ours that the error passed."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "tfslim_core" in frame.filename] or frames
    return f"{Path(ours[-1].filename).name}:{ours[-1].lineno}"


def _hang(*_: object) -> None:
    raise _HangError


def _bound_memory() -> None:
    lines = Path("/proc/self/status").read_text().splitlines()
    taken = next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmData"))
    most = taken + MEMORY
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=2000, help="inputs in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reader", action="append", help="only these, by name")
    parser.add_argument("--number", type=int, help="only this input of the reader; its error keeps its traceback")
    asked = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
        found = [one for one in readers(Path(folder)) if not asked.reader or one.name in asked.reader]
        if asked.number is not None:
            return _again(found[0], asked.number, asked.seed)
        return _all(found, asked.count, asked.seed)


def _again(reader: Reader, number: int, seed: int) -> int:
    file = _file(reader)
    file.write_bytes(_input(reader, number, seed))
    print(_input(reader, number, seed)[:3000], flush=True)
    _bound_memory()
    print(reader.read(reader.folder))
    return 0


def _all(found: list[Reader], count: int, seed: int) -> int:
    shares = sum(reader.share for reader in found)
    print(f"| reader | inputs | {' | '.join(OUTCOMES)} | seconds |")
    print(f"|---|{'---:|' * (len(OUTCOMES) + 2)}", flush=True)
    total, trouble = [0] * 5, []
    seconds = 0.0
    for number, reader in enumerate(found):
        some = round(count * reader.share / shares)
        if number == len(found) - 1:
            some = max(some, count - sum(total))
        tally = fuzzed(reader, some, seed)
        total = [one + more for one, more in zip(total, tally.counts, strict=True)]
        seconds += tally.seconds
        row = " | ".join(f"{one:,}" for one in tally.counts)
        print(f"| {reader.name} | {sum(tally.counts):,} | {row} | {tally.seconds:,.0f} |", flush=True)
        trouble += [f"{reader.name}, input {at}: {what}" for what, at in tally.told.items()]
    print(f"| all | {sum(total):,} | {' | '.join(f'{one:,}' for one in total)} | {seconds:,.0f} |\n")
    print("\n".join(trouble) or f"seed {seed}: no crash, no hang, no allocation over {MEMORY >> 20} MiB")
    return bool(trouble)


if __name__ == "__main__":
    sys.exit(main())
