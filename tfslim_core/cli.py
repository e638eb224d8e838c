"""The `tfslim` command: arguments in, one call of the API, tables out. What each takes is in `commands`.

Data goes to stdout; words and progress go to stderr. An expected error is one line and its exit code; see `errors`.
Ctrl-C exits with 130 and leaves nothing. Anything else is a bug: a traceback, and Python's exit code for it, 1.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import tfslim_core.commands  # noqa: F401  # registers them
from tfslim_core.commands.app import app, arguments, err
from tfslim_core.commands.printing import visible
from tfslim_core.errors import TfslimError


@contextmanager
def _hushed_libraries() -> Iterator[None]:
    """Give stderr to Python alone: TensorFlow's C++ libraries write to its descriptor whatever the log level."""
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL", "3") != "3" or sys.stderr is not sys.__stderr__:
        yield
        return
    before = sys.stderr
    # Not closed here: a log handler may hold on to it.
    words = os.fdopen(os.dup(2), "w", buffering=1, encoding="utf-8", errors="backslashreplace")
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    sys.stderr = words
    try:
        yield
    finally:
        sys.stderr = before
        os.dup2(words.fileno(), 2)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code."""
    arguments.set(list(argv) if argv is not None else None)
    with _hushed_libraries():
        try:
            app(args=list(argv) if argv is not None else None, prog_name="tfslim")
        except TfslimError as error:
            err.print(visible(f"tfslim: {error}"))
            return error.exit_code
        except SystemExit as end:  # the code of typer.Exit, or 2 for a usage error that it has told
            return end.code if isinstance(end.code, int) else 0
        return 0


if __name__ == "__main__":
    sys.exit(main())
