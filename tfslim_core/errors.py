"""The errors that tfslim raises on purpose.

Each message is one line: what failed, where, what was expected against what was found, and what to do.
Anything else that is raised is a bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TfslimError(Exception):
    """An expected failure; the base of every error below. The command line prints it and exits with `exit_code`."""

    exit_code = 1

    def __str__(self) -> str:
        # Names in a model may hold anything.
        return super().__str__().replace("\n", "\\n").replace("\r", "\\r")


class UsageError(TfslimError):
    """The arguments contradict each other or cannot be understood."""

    exit_code = 2


class ModelError(TfslimError):
    """A model or a bundle is missing, damaged, or lacks what was asked of it."""


class GraphError(TfslimError):
    """A graph is not valid: an input that does not resolve, a name used twice, a dtype that does not fit."""


class TransformError(TfslimError):
    """A transform is unknown, got a parameter it does not take, or could not be applied."""


class DataError(TfslimError):
    """A dataset cannot be read, or its records do not fit the model."""


class JobError(TfslimError):
    """A job did not end well on the runner that was to run it, or its results cannot be seen from here."""


class OutputExistsError(TfslimError):
    """The output is already there and `overwrite` was not given."""


class StorageError(TfslimError):
    """A bucket or an object in it cannot be read or written."""


class GateFailedError(TfslimError):
    """A check of the gate did not hold."""

    exit_code = 3


class InconclusiveError(TfslimError):
    """Nothing was proven either way: no data, too few examples, no baseline."""

    exit_code = 4


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint for messages: `; did you mean 'x'?`, or nothing when no known word is close."""
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {found[0]!r}?" if found else ""
