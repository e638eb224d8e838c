"""Send a model's warm-up requests to it as a server does, and compare with what the original answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tfslim_core.errors import DataError, ModelError
from tfslim_core.saved_model.fresh_process import answers
from tfslim_core.saved_model.sample_check import difference
from tfslim_core.saved_model.served_signatures import read_signatures
from tfslim_core.warmup_requests.requests_file import MOST_RECORDS, Record, read_records, requests_file, write_records


def keep_fitting(servable: Path, tags: Sequence[str]) -> list[str]:
    """Take the requests out of a servable that ask for a signature which it does not have; notes for the user.

    With one of them a server would not load it.
    """
    file = requests_file(servable)
    if not file.exists():
        return []
    signatures = read_signatures(servable, tags)
    try:
        records = read_records(file, signatures)
    except DataError:
        return []  # told when they are replayed
    lost = [r for r in records if r.request is not None and r.request.signature not in signatures]
    if not lost or len(records) > MOST_RECORDS:
        return []
    kept = [record.data for record in records if record not in lost]
    file.unlink()
    if kept:
        write_records(file, kept)
    names = ", ".join(sorted({record.request.signature for record in lost if record.request is not None}))
    return [f"{_requests(len(lost))} to {names} left out, which the result does not have"]


def replayed(servable: Path, original: Path | None, tags: Sequence[str]) -> list[str]:
    """Send each warm-up request to a servable and to its original, each in a fresh process; notes for the user.

    original: None where it is not at hand.

    Raises:
        ModelError: a request fails, or gives NaN, infinity or another shape, where it did not with the original; or it
            names tensors of the graph, which slimming rewrites.
    """
    file = requests_file(servable)
    if not file.exists():
        return []
    try:
        records = read_records(file, read_signatures(servable, tags))
    except DataError as error:
        return [f"the warm-up requests are kept as they are and were not replayed: {error}"]
    if not records:
        return ["the file of warm-up requests is empty"]
    for record in records:
        if "session_run_log" in record.problem:
            raise ModelError(
                f"{file.name}: request {record.number} is a session_run_log; it names tensors of the graph, which "
                "slimming rewrites: record it as a PredictRequest, or make others with tfslim warmup"
            )
    return [*_too_many(records), *_compared(records[:MOST_RECORDS], servable, original, tags)]


def _compared(records: Sequence[Record], servable: Path, original: Path | None, tags: Sequence[str]) -> list[str]:
    asked = [(record.number, record.request) for record in records if record.request is not None]
    requests = [request for _, request in asked]
    found = answers(servable, requests, tags) if requests else []
    before = answers(original, requests, tags) if requests and original is not None else [None] * len(requests)
    worst, failing = 0.0, []
    for (number, request), wanted, answer in zip(asked, before, found, strict=True):
        where = f"warm-up request {number} to signature {request.signature!r}"
        if isinstance(answer, ModelError):
            if not isinstance(wanted, ModelError):
                at_hand = "" if wanted is not None else " (the original is not at hand, to ask whether it fails there)"
                raise ModelError(f"{where} fails on the result{at_hand}: {answer}")
            failing.append(number)
        elif wanted is not None and not isinstance(wanted, ModelError):
            errors = {key: difference(value, answer[key]) for key, value in wanted.items()}
            broken = next((key for key, error in errors.items() if error == float("inf")), None)
            if broken is not None:
                raise ModelError(f"{where}: NaN, infinity or another shape came out at {broken!r}")
            worst = max(worst, *errors.values(), 0.0)
    return _told(records, len(requests) - len(failing), failing, worst if original is not None else None)


def _told(records: Sequence[Record], well: int, failing: Sequence[int], worst: float | None) -> list[str]:
    notes = []
    if well:
        off = "" if worst is None else f", off by at most {worst:.2g} (relative)" if worst else ", with equal answers"
        notes.append(f"{_requests(well)} replayed{off}")
    if failing:
        shown = ", ".join(map(str, failing[:5])) + (", …" if len(failing) > 5 else "")
        notes.append(
            f"{_requests(len(failing))} (number {shown}) failed, with the original too: a server does not load either"
        )
    unread = [record for record in records if record.request is None]
    if unread:
        notes.append(
            f"{_requests(len(unread))} not replayed; the first, number {unread[0].number}: {unread[0].problem}"
        )
    return notes


def _too_many(records: Sequence[Record]) -> list[str]:
    if len(records) <= MOST_RECORDS:
        return []
    return [f"there are more than {MOST_RECORDS:,} warm-up requests; a server loads no model with more than that"]


def _requests(count: int) -> str:
    return f"{count} warm-up request{'s' * (count != 1)}"
